// `sidepath train`: a base and a file of examples in, a run folder with a PEFT adapter out. Killed, it goes on with --resume.
import { readdir, rm, stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { readConfig } from '../compiler/checkpoint/config.ts'
import type { Decoder } from '../compiler/checkpoint/decoder.ts'
import { nodeHost, openFile, openWorkFolder, stageFolder } from '../runtime/disk.ts'
import { openSession } from '../runtime/node.ts'
import type { Example } from '../trainer/data/example.ts'
import { holdOut, rowsOfEpoch } from '../trainer/data/order.ts'
import { type ReadData, readJsonl } from '../trainer/data/read-jsonl.ts'
import type { TrainingText } from '../trainer/data/text.ts'
import type { TrainOptions } from '../trainer/run/options.ts'
import { ADAPTER_FOLDER, type TrainResult, train } from '../trainer/run/train.ts'
import { UserError } from './fail.ts'
import { openBaseFolder } from './open-base.ts'
import { table } from './table.ts'
import { MAX_THREADS, number, oneOf, parseTrain, type TrainFlags, wholeNumber } from './train-options.ts'
import { startTrainProgress } from './train-progress.ts'
import { openTrainingText } from './train-text.ts'

export interface TrainCommandOptions extends TrainFlags {
  readonly base: string
  readonly data: string
  readonly eval?: string
  readonly evalShare: string
  readonly badLines: string
  readonly out: string
  readonly threads: string
  readonly resume?: boolean
  readonly json?: boolean
}

/** What a shell reports of a program that Ctrl-C ended: 128 + SIGINT. */
const EXIT_INTERRUPTED = 130
/** Where graphs and weights lie while they are used; what a killed run left there is of no use to the next. */
const WORK = /^\.work\.[0-9a-f]+\.partial$/

export async function trainCommand(options: TrainCommandOptions): Promise<void> {
  const threads = wholeNumber('threads', options.threads, 0, MAX_THREADS)
  await requireRunFolder(options.out, options.resume ?? false)
  const base = await openBaseFolder(options.base)
  const config = await readConfig(base)
  const text = await openTrainingText(base, config.eosTokenIds)
  const data = await readData(options, config, text)
  const folder = await openWorkFolder(options.out)
  const work = await stageFolder(join(options.out, 'work'))
  const progress = startTrainProgress(options.json !== true)
  const stopping = new AbortController()
  const interrupted = () => {
    stopping.abort()
    progress.say('stopping after this step, with a checkpoint; Ctrl-C again stops at once')
  }
  process.once('SIGINT', interrupted)
  process.once('SIGTERM', interrupted)
  const started = performance.now()
  try {
    const host = {
      ...nodeHost,
      run: folder,
      work,
      openGraph: (path: string) => openSession(join(work.path, path), { threads, prepack: false }),
      now: () => performance.now(),
    }
    const input = {
      base,
      baseName: basename(resolve(options.base)),
      examples: data.train,
      heldOut: data.held,
      options: data.options,
      signal: stopping.signal,
    }
    const result = await train(input, host, (event) => progress.show(event))
    progress.stop()
    const seconds = (performance.now() - started) / 1000
    report(options, result, data, seconds)
    if (!result.isFinished) process.exitCode = EXIT_INTERRUPTED
  } finally {
    progress.stop()
    process.off('SIGINT', interrupted)
    process.off('SIGTERM', interrupted)
    await work.discard()
  }
}

interface Data {
  readonly train: readonly Example[]
  readonly held: readonly Example[]
  readonly options: TrainOptions
  readonly skipped: number
}

async function readData(flags: TrainCommandOptions, config: Decoder, text: TrainingText): Promise<Data> {
  const { maxPositions, vocabSize } = config.architecture
  const badLines = oneOf('bad-lines', ['refuse', 'skip'] as const, flags.badLines)
  // The data is read before the steps are known, and its length bounds what is read.
  const { maxLength } = parseTrain(flags, maxPositions, () => 1)
  const read = async (path: string): Promise<ReadData> => {
    if (!(await stat(path).catch(() => undefined))?.isFile()) {
      throw new UserError(`"${path}" is not a file; give JSONL with messages, prompt and completion, or text.`)
    }
    const file = await openFile(path)
    try {
      const found = await readJsonl(file, text, { maxTokens: maxLength, badLines, vocabSize })
      for (const reason of found.reasons) process.stderr.write(`sidepath: skipped: ${reason}\n`)
      return found
    } finally {
      await file.close()
    }
  }
  const seed = number('seed', flags.seed)
  const all = await read(flags.data)
  const share = flags.eval === undefined ? number('eval-share', flags.evalShare) : 0
  if (!(share >= 0 && share < 1)) throw new UserError(`--eval-share ${share}: give a share from 0 to below 1.`)
  const apart = flags.eval === undefined ? undefined : await read(flags.eval)
  const { train: examples, held } =
    apart === undefined ? holdOut(all.examples, share, seed) : { train: all.examples, held: apart.examples }
  const options = parseTrain(flags, maxPositions, (width) => {
    const order = { seed, shuffle: false, packTokens: flags.packing ? width - 1 : undefined }
    return rowsOfEpoch(examples, order, 0).length
  })
  return { train: examples, held, options, skipped: all.skipped + (apart?.skipped ?? 0) }
}

/** A run is never begun over another; a killed one is taken up again only where that is asked for. */
async function requireRunFolder(out: string, isResumed: boolean): Promise<void> {
  const there = await stat(out).catch(() => undefined)
  if (there !== undefined && !there.isDirectory()) {
    throw new UserError(`--out "${out}" is a file; choose a folder that does not exist yet.`)
  }
  const all = there === undefined ? [] : await readdir(out)
  // All that a run leaves that was killed before its first step.
  for (const entry of all) if (WORK.test(entry)) await rm(join(out, entry), { recursive: true, force: true })
  const entries = all.filter((entry) => !WORK.test(entry))
  if (isResumed && !entries.includes('config.json')) {
    throw new UserError(`--resume: "${out}" holds no run; leave --resume out to begin one.`)
  }
  if (!isResumed && entries.length > 0) {
    throw new UserError(
      `--out "${out}" is not empty; add --resume to go on with the run in it, or choose another folder.`,
    )
  }
}

function report(options: TrainCommandOptions, result: TrainResult, data: Data, seconds: number): void {
  const out = resolve(options.out)
  const adapter = join(out, ADAPTER_FOLDER)
  if (options.json) {
    process.stdout.write(`${JSON.stringify({ ...result, out, seconds, ...(result.isFinished && { adapter }) })}\n`)
    return
  }
  const figure = (loss: number | undefined) =>
    loss === undefined ? '–' : `${loss.toFixed(4)} (perplexity ${Math.exp(loss).toFixed(3)})`
  const rows = [
    ['examples', `${data.train.length}, held out ${data.held.length}, lines skipped ${data.skipped}`],
    ['trained', `${result.trainable.toLocaleString('en')} parameters, ${result.step} of ${data.options.steps} steps`],
    ['loss of the last step', figure(result.loss)],
    ['held-out loss before', figure(result.heldOutLossBefore)],
    ['held-out loss after', figure(result.heldOutLoss)],
    ...(result.isStoppedEarly
      ? [['stopped early', `the best was ${figure(result.bestLoss)}, and is what was kept`]]
      : []),
    ['base', `${result.baseDigest.slice(0, 12)}, unchanged`],
  ]
  const end = result.isFinished
    ? `${seconds.toFixed(0)} s → ${adapter}`
    : `interrupted after ${seconds.toFixed(0)} s; the same command with --resume goes on from here`
  process.stdout.write(`${table(['', ''], rows)}\n\n${end}\n`)
}
