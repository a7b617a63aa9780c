// Pulls a model or an adapter from the Hugging Face Hub: all of it or nothing, resumed where an earlier run stopped.
import { stat, statfs } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { makeFolder } from '../runtime/disk.ts'
import { download } from './download.ts'
import { PullError } from './errors.ts'
import { createHub, type Hub } from './hub.ts'
import { listCommit, type RemoteFile, resolveCommit } from './listing.ts'
import { type PullRecord, RECORD_SCHEMA } from './record.ts'
import { checkToken, parseEndpoint, parseReference } from './reference.ts'
import { type Retry, retry, waiting } from './retry.ts'
import { selectFiles } from './select.ts'
import { openStaging, readFinished } from './staging.ts'

export interface PullOptions {
  /** `hf:OWNER/NAME[@REVISION]`. */
  readonly reference: string
  /** The folder that is made; the repository's name in the current folder where absent. */
  readonly out?: string | undefined
  /** Patterns of the files to pull, in the place of what a base or an adapter needs. */
  readonly include?: readonly string[] | undefined
  /** HF_ENDPOINT. */
  readonly endpoint?: string | undefined
  /** HF_TOKEN. */
  readonly token?: string | undefined
  readonly signal?: AbortSignal
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void
  /** In the place of a timer between tries. */
  readonly wait?: Retry['wait']
  /** A connection without a byte for so long is dead; a minute where absent. */
  readonly idleMs?: number
  /** Bytes that may be written beside `out`. */
  readonly freeBytes?: (folder: string) => Promise<number>
}

export interface PullResult extends PullRecord {
  readonly out: string
  /** False where all of it was there already. */
  readonly pulled: boolean
}

/** More connections are no faster to one host, and are what it answers 429 to. */
const PARALLEL = 4
/** Left on the disk for everybody else. */
const SPARE_BYTES = 64 * 1024 * 1024

/** Throws `PullError`, and then `out` is as it was and `<out>.partial` holds what the next run goes on with. */
export async function pull(options: PullOptions): Promise<PullResult> {
  const { signal, wait = waiting(signal), onProgress = () => {}, freeBytes = freeOnDisk } = options
  const reference = parseReference(options.reference)
  const hub = createHub({ endpoint: parseEndpoint(options.endpoint), token: checkToken(options.token), signal })
  const out = resolve(options.out ?? reference.name)
  const { repo, revision } = reference

  const commit = await retry({ wait }, () => resolveCommit(hub, reference))
  const files = selectFiles(repo, await retry({ wait }, () => listCommit(hub, repo, commit)), options.include)
  const finished = await readFinished(out)
  if (finished !== undefined) return { ...sameAs(finished, { repo, commit, files, out }), out, pulled: false }

  await makeFolder(dirname(out))
  const paths = files.map(({ path }) => path)
  const staging = await openStaging(out, repo, paths)
  try {
    await requireSpace(files, staging.path, freeBytes)
    const digests = await downloadAll(files, {
      ...{ hub, wait, signal, onProgress, repo, commit },
      idleMs: options.idleMs,
      folder: staging.path,
    })
    const listed = files.map(({ path, bytes }, at) => ({ path, bytes, sha256: digests[at]! }))
    const record = { schema: RECORD_SCHEMA, repo, revision, commit, files: listed } as const
    await staging.commit(record)
    return { ...record, out, pulled: true }
  } catch (error) {
    await staging.release().catch(() => {})
    throw error
  }
}

interface Transfer extends Retry {
  readonly hub: Hub
  readonly signal: AbortSignal | undefined
  readonly idleMs: number | undefined
  readonly onProgress: (doneBytes: number, totalBytes: number) => void
  readonly repo: string
  readonly commit: string
  readonly folder: string
}

/** The SHA-256 of each file, in their order. The first failure stops the others, each at a byte it can go on from. */
async function downloadAll(files: readonly RemoteFile[], transfer: Transfer): Promise<string[]> {
  const { hub, repo, commit, folder, onProgress } = transfer
  const totalBytes = files.reduce((sum, { bytes }) => sum + bytes, 0)
  const failed = new AbortController()
  const signal = transfer.signal === undefined ? failed.signal : AbortSignal.any([transfer.signal, failed.signal])
  const digests: string[] = []
  const queue = files.map((file, at) => ({ file, at }))
  let doneBytes = 0
  let failure: { readonly error: unknown } | undefined
  const worker = async () => {
    for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
      const { file, at } = next
      digests[at] = await download({
        hub,
        wait: transfer.wait,
        idleMs: transfer.idleMs,
        signal,
        file,
        url: `${hub.url}/${repo}/resolve/${commit}/${file.path.split('/').map(encodeURIComponent).join('/')}`,
        path: join(folder, file.path),
        onBytes: (bytes) => {
          doneBytes += bytes
          onProgress(doneBytes, totalBytes)
        },
      })
    }
  }
  const stop = (error: unknown) => {
    failure ??= { error }
    queue.length = 0
    failed.abort()
  }
  await Promise.all(Array.from({ length: Math.min(PARALLEL, files.length) }, () => worker().catch(stop)))
  if (failure !== undefined) throw failure.error
  return digests
}

/** What is there already counts for what it holds. */
async function requireSpace(
  files: readonly RemoteFile[],
  folder: string,
  freeBytes: (folder: string) => Promise<number>,
): Promise<void> {
  let needed = SPARE_BYTES
  for (const { path, bytes } of files) {
    const sizes = await Promise.all([path, `${path}.partial`].map((name) => sizeOf(join(folder, name))))
    needed += Math.max(0, bytes - Math.max(...sizes))
  }
  const free = await freeBytes(folder)
  if (free >= needed) return
  throw new PullError(
    'disk-space',
    `the download needs ${mib(needed)} MiB more and the disk of "${folder}" has ${mib(free)} MiB free; free some space or choose another --out.`,
  )
}

async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => undefined))?.size ?? 0
}

async function freeOnDisk(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder)
  return bavail * bsize
}

function sameAs(
  record: PullRecord,
  { repo, commit, files, out }: { repo: string; commit: string; files: readonly RemoteFile[]; out: string },
): PullRecord {
  const there = new Map(record.files.map(({ path, bytes }) => [path, bytes]))
  const isSame = record.repo === repo && record.commit === commit
  if (isSame && files.every(({ path, bytes }) => there.get(path) === bytes)) return record
  const holds = isSame ? 'other files of it' : `${record.repo} at ${record.commit.slice(0, 12)}`
  throw new PullError(
    'out-occupied',
    `--out "${out}" holds ${holds}, and ${repo} at ${commit.slice(0, 12)} is asked for; choose another folder or delete that one.`,
  )
}

function mib(bytes: number): number {
  return Math.ceil(bytes / 2 ** 20)
}
