// `sidepath pull`: a base or an adapter from the Hugging Face Hub into a folder.
import { type PullResult, pull } from '../pull/pull.ts'
import { startProgress } from './progress.ts'
import { table } from './table.ts'

export interface PullOptions {
  readonly out?: string
  readonly include?: readonly string[]
  readonly json?: boolean
}

/** What a shell reports of a program that Ctrl-C ended: 128 + SIGINT. */
const EXIT_INTERRUPTED = 130

export async function pullCommand(reference: string, { out, include, json }: PullOptions): Promise<void> {
  const progress = startProgress(!json)
  const stopping = new AbortController()
  // The second one finds no listener and ends the process at once; what is on disk is as good to go on from.
  const interrupt = () => stopping.abort()
  process.once('SIGINT', interrupt)
  process.once('SIGTERM', interrupt)
  const started = performance.now()
  let result: PullResult
  try {
    result = await pull({
      reference,
      out,
      include,
      endpoint: process.env.HF_ENDPOINT || undefined,
      token: process.env.HF_TOKEN,
      signal: stopping.signal,
      onProgress: (doneBytes, totalBytes) => progress.update('pulling', doneBytes, totalBytes),
    })
  } catch (error) {
    progress.stop()
    if (!stopping.signal.aborted) throw error
    process.stderr.write('sidepath: interrupted; run the same command to go on where it was.\n')
    process.exit(EXIT_INTERRUPTED)
  } finally {
    progress.stop()
    process.off('SIGINT', interrupt)
    process.off('SIGTERM', interrupt)
  }
  const seconds = (performance.now() - started) / 1000
  process.stdout.write(json ? `${JSON.stringify({ ...result, seconds })}\n` : `${summary(result, seconds)}\n`)
}

function summary({ repo, revision, commit, files, out, pulled }: PullResult, seconds: number): string {
  const bytes = files.reduce((sum, file) => sum + file.bytes, 0)
  const did = pulled
    ? `${(bytes / 1e6).toFixed(1)} MB in ${files.length} files, ${seconds.toFixed(1)} s`
    : 'there already'
  return [
    `${repo} ${revision} at ${commit}`,
    `${did} → ${out}`,
    '',
    table(
      ['file', 'bytes', 'SHA-256'],
      files.map(({ path, bytes, sha256 }) => [path, String(bytes), sha256.slice(0, 12)]),
    ),
  ].join('\n')
}
