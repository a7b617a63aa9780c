// `sidepath merge --format safetensors` and `sidepath unmerge`: a Hugging Face folder in, the same with adapters written
// into its weights, or taken out of them, out.
import { resolve } from 'node:path'
import { type MergeReport, mergeCheckpoint } from '../compiler/merge/merge-checkpoint.ts'
import { openBase } from '../compiler/merge/open-base.ts'
import { readAdaptersFor } from '../compiler/merge/read-adapters.ts'
import { negate } from '../compiler/merge/unmerge.ts'
import { openFolder } from '../runtime/disk.ts'
import { wasmLanes } from '../runtime/wasm-lanes.ts'
import { type AdapterSpec, parseAdapterSpec, requireFolder } from './adapter-spec.ts'
import { UserError } from './fail.ts'
import { openNamed } from './open-base.ts'
import { startProgress } from './progress.ts'
import { table } from './table.ts'
import { writeFolder } from './write-folder.ts'

/** As the command line gives them. */
export interface MergeOptions {
  readonly base: string
  /** `name=folder`, `name*weight=folder`, or a folder. */
  readonly adapter?: readonly string[]
  readonly out: string
  /** Threads that compute; one a core where absent. */
  readonly threads?: string
  readonly json?: boolean
}

const MAX_THREADS = 256

const UNMERGE_NOTE =
  'the difference was subtracted and rounded again, so the weights are near those before the merge, not the same bits; ' +
  'where the base is at hand, use that'

/** base + adapters → a checkpoint in safetensors with the adapters in its weights. */
export async function mergeCheckpointCommand(options: MergeOptions): Promise<void> {
  await run('merged', options)
}

/** A merged checkpoint − adapters → a checkpoint near the base. It does not restore the base's bits, and says so. */
export async function unmergeCheckpointCommand(options: MergeOptions): Promise<void> {
  await run('unmerged', options)
}

async function run(verb: 'merged' | 'unmerged', options: MergeOptions): Promise<void> {
  const specs = (options.adapter ?? []).map(parseAdapterSpec)
  if (specs.length === 0) throw new UserError('no adapters are given; name at least one with --adapter.')
  const { folder, files } = await openNamed(options.base)
  for (const { name, path } of specs) await requireFolder(path, `adapter "${name}"`)
  const lanes = wasmLanes(parseThreads(options.threads))
  const started = performance.now()
  const progress = startProgress(!options.json)
  const base = await openBase(folder)
  let report: MergeReport
  try {
    const inputs = specs.map(({ name, path, weight }) => ({ name, weight, folder: openFolder(path) }))
    const adapters = await readAdaptersFor(base, inputs)
    const changes = verb === 'merged' ? adapters : negate(adapters)
    report = await writeFolder(
      options.out,
      (out) =>
        mergeCheckpoint(base, changes, files, out, lanes, ({ stage, doneBytes, totalBytes }) =>
          progress.update(stage, doneBytes, totalBytes),
        ),
      () => progress.stop(),
    )
  } finally {
    progress.stop()
    await base.close()
  }
  const seconds = (performance.now() - started) / 1000
  const out = resolve(options.out)
  const notes = notesOn(verb, report)
  process.stdout.write(
    options.json
      ? `${JSON.stringify({ out, seconds, ...report, adapters: specs.map(({ name, weight }) => ({ name, weight })), notes })}\n`
      : `${summary(verb, report, specs, out, seconds, notes)}\n`,
  )
}

function parseThreads(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const threads = Number(text)
  if (/^\d{1,3}$/.test(text) && threads >= 1 && threads <= MAX_THREADS) return threads
  throw new UserError(`--threads "${text}": give a number from 1 to ${MAX_THREADS}.`)
}

function notesOn(verb: 'merged' | 'unmerged', { untied, leftOut }: MergeReport): string[] {
  return [
    ...(verb === 'unmerged' ? [UNMERGE_NOTE] : []),
    ...(untied === undefined
      ? []
      : [
          `the base's head was its embedding, which changed alone; ${untied} is stored, and tie_word_embeddings is false`,
        ]),
    ...(leftOut.length === 0 ? [] : [`left out, as they hold other weights than these: ${leftOut.join(', ')}`]),
  ]
}

function summary(
  verb: string,
  report: MergeReport,
  specs: readonly AdapterSpec[],
  out: string,
  seconds: number,
  notes: readonly string[],
): string {
  const { bytes, tensors, changed } = report
  return [
    `${verb} checkpoint, ${changed.length} of ${tensors} tensors changed, the others byte for byte`,
    `${(bytes / 1e6).toFixed(1)} MB, ${seconds.toFixed(1)} s → ${out}`,
    '',
    table(
      ['adapter', 'weight'],
      specs.map(({ name, weight }) => [name, String(weight)]),
    ),
    ...notes.map((note) => `note: ${note}`),
  ].join('\n')
}
