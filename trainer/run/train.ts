// A training run, from a base and examples to an adapter. It may be killed at any moment and taken up again: what it then
// writes is, byte for byte, what it would have written.
import { canonicalJson } from '../../compiler/canonical-json.ts'
import { digestBase } from '../../compiler/checkpoint/digest.ts'
import { type Checkpoint, openCheckpoint } from '../../compiler/checkpoint/read.ts'
import { inputError } from '../../compiler/errors.ts'
import type { Folder } from '../../compiler/host.ts'
import { withFile } from '../../compiler/read-file.ts'
import type { Feeds, GraphSession } from '../../compiler/verify/session.ts'
import { makeBatch } from '../data/batch.ts'
import { dropoutFeeds } from '../data/dropout.ts'
import { countTargets, type Example, type Row } from '../data/example.ts'
import { rowsInOrder, rowsOfEpoch } from '../data/order.ts'
import { trainingNames as names } from '../graph/names.ts'
import { encodeAdapterFolder } from '../lora/save.ts'
import { ADAM_DEFAULTS } from '../optimise/adamw.ts'
import { rateAt } from '../optimise/schedule.ts'
import type { TrainHost } from './host.ts'
import { Learner } from './learner.ts'
import { lossPlot } from './loss-plot.ts'
import { Metrics, type StepLine } from './metrics.ts'
import { checkOptions, type TrainOptions } from './options.ts'
import { initialise, loraGroups, loraParameters, type Parameters, startFeeds, trainedModules } from './parameters.ts'
import { EVAL_GRAPH, type Prepared, prepare, readWeight, TRAIN_GRAPH } from './prepare.ts'
import { encodeState, type Progress, readState } from './state.ts'

export interface TrainInput {
  readonly base: Folder
  /** What adapter_config.json calls it. */
  readonly baseName: string | null
  readonly examples: readonly Example[]
  /** None: nothing is evaluated. */
  readonly heldOut: readonly Example[]
  readonly options: TrainOptions
  /** Ends the run after the step that it is in, with a checkpoint. */
  readonly signal?: AbortSignal
}

export type TrainEvent =
  | { readonly kind: 'prepare'; readonly doneBytes: number; readonly totalBytes: number }
  | { readonly kind: 'step'; readonly line: StepLine; readonly steps: number }
  | { readonly kind: 'held-out'; readonly step: number; readonly loss: number }

export interface TrainResult {
  readonly step: number
  /** False where the signal ended it. */
  readonly isFinished: boolean
  /** No gain for as many evaluations as `patience` says. */
  readonly isStoppedEarly: boolean
  readonly trainable: number
  readonly baseDigest: string
  readonly loss: number | undefined
  /** Of the base alone. */
  readonly heldOutLossBefore: number | undefined
  readonly heldOutLoss: number | undefined
  readonly bestLoss: number | undefined
}

export const STATE_FILE = 'checkpoint.safetensors'
export const ADAPTER_FOLDER = 'adapter'

/** Throws `InputError` for options, a base, or a state that do not go together. */
export async function train(
  input: TrainInput,
  host: TrainHost,
  onEvent: (event: TrainEvent) => void = () => {},
): Promise<TrainResult> {
  const checkpoint = await openCheckpoint(input.base)
  try {
    checkOptions(input.options, checkpoint.config.architecture.maxPositions)
    const totalBytes = 2 * [...checkpoint.tensors.values()].reduce((sum, { bytes }) => sum + bytes, 0)
    let doneBytes = 0
    const prepared = await prepare(checkpoint, input.options, host, (bytes) => {
      doneBytes += bytes
      onEvent({ kind: 'prepare', doneBytes, totalBytes })
    })
    const session = await host.openGraph(TRAIN_GRAPH)
    const run = new Run(input, checkpoint, prepared, session, host, onEvent)
    try {
      return await run.toEnd()
    } finally {
      await run.close()
    }
  } finally {
    await checkpoint.close()
  }
}

class Run {
  readonly #input: TrainInput
  readonly #checkpoint: Checkpoint
  readonly #prepared: Prepared
  readonly #session: GraphSession
  readonly #host: TrainHost
  readonly #onEvent: (event: TrainEvent) => void
  readonly #parameters: Parameters
  readonly #learner: Learner
  readonly #digest: string
  #evaluation: GraphSession | undefined
  #starts: Feeds = {}
  #best: Float32Array | undefined

  constructor(
    input: TrainInput,
    checkpoint: Checkpoint,
    prepared: Prepared,
    session: GraphSession,
    host: TrainHost,
    onEvent: (event: TrainEvent) => void,
  ) {
    this.#input = input
    this.#checkpoint = checkpoint
    this.#prepared = prepared
    this.#session = session
    this.#host = host
    this.#onEvent = onEvent
    this.#parameters = loraParameters(prepared.spec)
    this.#learner = new Learner(session, this.#parameters, loraGroups(this.#parameters, input.options.loraPlusRatio))
    this.#digest = this.#fingerprint()
  }

  async toEnd(): Promise<TrainResult> {
    const { options, heldOut, signal } = this.#input
    const { spec, baseDigest } = this.#prepared
    const factors = await initialise(spec, this.#parameters, options.seed, (module) =>
      readWeight(this.#checkpoint, module),
    )
    this.#starts = startFeeds(spec, factors)
    if (spec.dora) await this.#readMagnitudes()
    const resumed = await this.#resume()
    const metrics = await Metrics.open(this.#host.run, resumed?.step)
    await this.#writeConfig()
    let progress = resumed ?? { run: this.#digest, step: 0, tokens: 0, waited: 0, bestLoss: null, stopped: false }
    // What the base does, so that a gain can be told from a loss.
    if (resumed === undefined && heldOut.length > 0) progress = await this.#judge(progress, metrics)
    const rows = this.#rows(progress.step)
    const isAborted = () => signal?.aborted === true
    while (progress.step < options.steps && !progress.stopped && !isAborted()) {
      const line = await this.#step(rows, progress)
      progress = { ...progress, step: line.step, tokens: line.tokens }
      await metrics.add(line)
      this.#onEvent({ kind: 'step', line, steps: options.steps })
      const isLast = line.step === options.steps
      const isDue = options.evalEvery > 0 && line.step % options.evalEvery === 0
      if (heldOut.length > 0 && (isDue || isLast)) progress = await this.#judge(progress, metrics)
      const isStop = isLast || progress.stopped || isAborted()
      if (isStop || line.step % options.saveEvery === 0) await this.#save(progress)
    }
    const isFinished = progress.step >= options.steps || progress.stopped
    const result: TrainResult = {
      step: progress.step,
      isFinished,
      isStoppedEarly: progress.stopped,
      trainable: this.#parameters.values.length,
      baseDigest,
      loss: metrics.train.at(-1)?.loss,
      heldOutLossBefore: metrics.held[0]?.loss,
      heldOutLoss: metrics.held.at(-1)?.loss,
      bestLoss: progress.bestLoss ?? undefined,
    }
    await this.#replace('loss.svg', lossPlot(metrics.train, metrics.held))
    if (isFinished) await this.#finish(factors, result)
    return result
  }

  async close(): Promise<void> {
    await this.#session.release()
    await this.#evaluation?.release()
  }

  /** DoRA begins with m = ‖W + s·B·A‖, as the graph works it out, so that step 0 is the base exactly. */
  async #readMagnitudes(): Promise<void> {
    const { spec, learn } = this.#prepared
    const [row] = rowsOfEpoch(this.#input.examples.slice(0, 1), { seed: 0, shuffle: false, packTokens: undefined }, 0)
    const feeds = this.#feedsOf([row as Row], 1, 'magnitudes')
    const results = await this.#session.run({ ...this.#parameters.feeds(), ...feeds }, learn.norms)
    for (const { linear } of spec.modules) {
      this.#parameters.of(names.magnitude(linear.module)).set(results[names.norm(linear.module)]?.data as Float32Array)
    }
  }

  async #resume(): Promise<Progress | undefined> {
    const found = await withFile(this.#host.run, STATE_FILE, (file) =>
      readState(file, this.#digest, this.#learner.moments),
    )
    if (found === undefined) return undefined
    this.#best = found.best
    this.#learner.step = found.progress.step
    return found.progress
  }

  #rows(step: number): Iterator<Row> {
    const { examples, options } = this.#input
    const { seed, packing, maxLength, batchSize, accumulation } = options
    const order = { seed, shuffle: true, packTokens: packing ? maxLength - 1 : undefined }
    return rowsInOrder(examples, order, step * batchSize * accumulation)
  }

  async #step(rows: Iterator<Row>, { step, tokens }: Progress): Promise<StepLine> {
    const { options } = this.#input
    const { batchSize, accumulation, steps } = options
    const started = this.#host.now()
    const micro = Array.from({ length: accumulation }, () =>
      Array.from({ length: batchSize }, () => rows.next().value as Row),
    )
    const all = micro.flat(2)
    const scale = 1 / countTargets(all)
    const feeds = this.#feedsOfAll(micro, scale, step)
    const learningRate = rateAt(
      { kind: options.schedule, learningRate: options.learningRate, warmUpSteps: options.warmUpSteps, steps, floor: 0 },
      step,
    )
    const adam = { ...ADAM_DEFAULTS, weightDecay: options.weightDecay }
    const { loss, gradientNorm } = await this.#learner.learn(feeds, {
      learningRate,
      maxGradNorm: options.maxGradNorm,
      adam,
    })
    if (!Number.isFinite(loss) || !Number.isFinite(gradientNorm)) {
      throw inputError(
        'train-state',
        `step ${step + 1}: the loss is ${loss} and the norm of its gradient ${gradientNorm}; lower the learning rate of ${options.learningRate}, the last checkpoint is as it was`,
      )
    }
    return {
      step: step + 1,
      loss,
      gradientNorm,
      learningRate,
      tokens: tokens + all.reduce((sum, { ids }) => sum + ids.length - 1, 0),
      seconds: (this.#host.now() - started) / 1000,
    }
  }

  /** One after the other, so that only one micro-batch is held. */
  *#feedsOfAll(micro: readonly (readonly Row[])[], scale: number, step: number): Generator<Feeds> {
    for (const [at, rows] of micro.entries()) yield this.#feedsOf(rows, scale, `${step}/${at}`)
  }

  #feedsOf(rows: readonly Row[], scale: number, run: string): Feeds {
    const { feeds } = makeBatch(rows, scale, this.#prepared.pieces)
    const [height = 0, width = 0] = feeds[names.segments]?.dims ?? []
    const noise = dropoutFeeds(this.#prepared.spec, height * width, this.#input.options.seed, run)
    return { ...feeds, ...this.#starts, ...noise }
  }

  async #judge(progress: Progress, metrics: Metrics): Promise<Progress> {
    const { patience } = this.#input.options
    const loss = await this.#heldOutLoss()
    await metrics.add({ step: progress.step, heldOutLoss: loss, perplexity: Math.exp(loss) })
    this.#onEvent({ kind: 'held-out', step: progress.step, loss })
    const isBest = progress.bestLoss === null || loss < progress.bestLoss
    if (isBest && patience > 0) this.#best = this.#parameters.values.slice()
    const waited = isBest ? 0 : progress.waited + 1
    const stopped = patience > 0 && waited >= patience
    return { ...progress, bestLoss: isBest ? loss : progress.bestLoss, waited, stopped }
  }

  /** Mean over all held-out targets. */
  async #heldOutLoss(): Promise<number> {
    const { heldOut, options } = this.#input
    const { batchSize, packing, maxLength } = options
    this.#evaluation ??= await this.#host.openGraph(EVAL_GRAPH)
    const order = { seed: 0, shuffle: false, packTokens: packing ? maxLength - 1 : undefined }
    const rows = rowsOfEpoch(heldOut, order, 0)
    const scale = 1 / countTargets(heldOut)
    let sum = 0
    for (let at = 0; at < rows.length; at += batchSize) {
      const { feeds } = makeBatch(rows.slice(at, at + batchSize), scale, this.#prepared.pieces)
      const all = { ...this.#parameters.feeds(), ...feeds, ...this.#starts }
      const results = await this.#evaluation.run(all, [names.loss])
      sum += results[names.loss]?.data[0] as number
    }
    return sum
  }

  #save(progress: Progress): Promise<void> {
    const { moments } = this.#learner
    return this.#host.run.replace(STATE_FILE, encodeState({ progress, moments, best: this.#best }))
  }

  async #finish(starts: ReadonlyMap<string, { A: Float32Array; B: Float32Array }>, result: TrainResult): Promise<void> {
    const { spec, baseDigest } = this.#prepared
    const after = await digestBase(this.#checkpoint, this.#host)
    if (after !== baseDigest) {
      throw inputError(
        'train-state',
        `${this.#checkpoint.name} changed while it was trained on; give it back its files and run again`,
      )
    }
    if (this.#best !== undefined) this.#parameters.values.set(this.#best)
    const files = encodeAdapterFolder(
      this.#checkpoint.config,
      this.#input.options.lora,
      spec,
      trainedModules(spec, this.#parameters, starts),
      this.#input.baseName,
    )
    await this.#host.run.replace(`${ADAPTER_FOLDER}/adapter_model.safetensors`, files.model)
    await this.#host.run.replace(`${ADAPTER_FOLDER}/adapter_config.json`, files.config)
    await this.#writeConfig(result)
  }

  async #writeConfig(result?: TrainResult): Promise<void> {
    const { examples, heldOut, options, baseName } = this.#input
    const { baseDigest, pieces } = this.#prepared
    const config = {
      base: { name: baseName, digest: baseDigest },
      data: { examples: examples.length, heldOut: heldOut.length, run: this.#digest },
      trainable: this.#parameters.values.length,
      pieces,
      options,
      ...(result && { result }),
    }
    await this.#replace('config.json', `${JSON.stringify(config, null, 2)}\n`)
  }

  #replace(path: string, text: string): Promise<void> {
    return this.#host.run.replace(path, new TextEncoder().encode(text))
  }

  /** SHA-256 of all that the run depends on. */
  #fingerprint(): string {
    const { examples, heldOut, options } = this.#input
    const hash = this.#host.sha256()
    const { baseDigest } = this.#prepared
    hash.update(new TextEncoder().encode(canonicalJson(JSON.parse(JSON.stringify({ baseDigest, options })))))
    for (const set of [examples, heldOut]) {
      hash.update(Uint8Array.of(0))
      for (const { ids, isTarget } of set) {
        hash.update(new Uint8Array(Int32Array.from(ids, (id, at) => (isTarget[at] ? -1 - id : id)).buffer))
        hash.update(Uint8Array.of(1))
      }
    }
    return hash.hex()
  }
}
