// The options of `sidepath train` and `sidepath plan`: text of the command line → what the trainer takes.
import type { QuantiseOptions } from '../compiler/quantise/spec.ts'
import type { LoraOptions } from '../trainer/lora/select.ts'
import { INITS } from '../trainer/lora/spec.ts'
import { SCHEDULES } from '../trainer/optimise/schedule.ts'
import type { TrainOptions } from '../trainer/run/options.ts'
import { UserError } from './fail.ts'
import { parseQuantise, type QuantiseFlags } from './quantise.ts'

export interface LoraFlags {
  readonly r: string
  readonly alpha?: string
  readonly targetModules: string
  readonly rankPattern?: readonly string[]
  readonly alphaPattern?: readonly string[]
  readonly rslora?: boolean
  readonly dora?: boolean
  readonly init: string
  readonly dropout: string
}

export interface TrainFlags extends LoraFlags, QuantiseFlags {
  readonly lr: string
  readonly loraPlus: string
  readonly schedule: string
  readonly warmUp?: string
  readonly steps?: string
  readonly epochs: string
  readonly weightDecay: string
  readonly maxGradNorm: string
  readonly batch: string
  readonly accumulate: string
  readonly maxLength?: string
  readonly packing?: boolean
  readonly recompute?: boolean
  readonly seed: string
  readonly evalEvery?: string
  readonly patience?: string
  readonly saveEvery?: string
}

/** As long as a conversation usually is; memory grows with it, and with its square in attention. */
const DEFAULT_LENGTH = 1024
/** A tenth of the steps is usual where nothing else is known; more than this gains nothing. */
const MOST_WARM_UP = 100

export function number(name: string, text: string): number {
  const value = Number(text)
  if (text.trim() === '' || !Number.isFinite(value)) throw new UserError(`--${name} "${text}" is not a number.`)
  return value
}

/** More cores than this no machine has that runs this. */
export const MAX_THREADS = 256

export function wholeNumber(name: string, text: string, least: number, most: number): number {
  const value = number(name, text)
  if (Number.isInteger(value) && value >= least && value <= most) return value
  throw new UserError(`--${name} ${text}: give a whole number from ${least} to ${most}.`)
}

/** A number above 0. */
export function positive(name: string, text: string): number {
  const value = number(name, text)
  if (value > 0) return value
  throw new UserError(`--${name} ${text}: give a number above 0.`)
}

/** One of a few words. */
export function oneOf<T extends string>(name: string, words: readonly T[], text: string): T {
  const found = words.find((word) => word === text)
  if (found === undefined) throw new UserError(`--${name} "${text}" is unknown; use ${words.join(', ')}.`)
  return found
}

export function parseLora(flags: LoraFlags): LoraOptions {
  const r = number('r', flags.r)
  return {
    r,
    // Twice the rank, so that a change of the rank alone leaves the step as large as it was.
    alpha: flags.alpha === undefined ? 2 * r : number('alpha', flags.alpha),
    targetModules: /^[\w.,-]+$/.test(flags.targetModules) ? names(flags.targetModules) : flags.targetModules,
    rankPattern: pattern('rank-pattern', flags.rankPattern),
    alphaPattern: pattern('alpha-pattern', flags.alphaPattern),
    useRslora: flags.rslora ?? false,
    useDora: flags.dora ?? false,
    init: oneOf('init', INITS, flags.init),
    dropout: number('dropout', flags.dropout),
  }
}

/** A list, or the one word that is a preset; whatever else is a regex. */
function names(text: string): readonly string[] | string {
  const list = text.split(',').filter((name) => name !== '')
  return list.length === 1 && ['all-linear', 'attention', 'mlp'].includes(text) ? text : list
}

/** KEY=NUMBER, several times. */
function pattern(name: string, given: readonly string[] = []): Record<string, number> {
  return Object.fromEntries(
    given.map((text) => {
      const at = text.lastIndexOf('=')
      if (at < 1) throw new UserError(`--${name} "${text}" is no KEY=NUMBER; write e.g. q_proj=16.`)
      return [text.slice(0, at), number(name, text.slice(at + 1))]
    }),
  )
}

/** `epochRows`: rows of one epoch, which steps are counted from where nobody names them. */
export function parseTrain(
  flags: TrainFlags,
  maxPositions: number,
  epochRows: (maxLength: number) => number,
): TrainOptions {
  const maxLength =
    flags.maxLength === undefined ? Math.min(DEFAULT_LENGTH, maxPositions) : number('max-length', flags.maxLength)
  const [batchSize, accumulation] = [number('batch', flags.batch), number('accumulate', flags.accumulate)]
  const perStep = Math.max(1, batchSize * accumulation)
  const steps =
    flags.steps === undefined
      ? Math.max(1, Math.ceil((positive('epochs', flags.epochs) * epochRows(maxLength)) / perStep))
      : number('steps', flags.steps)
  const quantise = trainedOn(flags)
  return {
    lora: parseLora(flags),
    ...(quantise && { quantise }),
    learningRate: number('lr', flags.lr),
    loraPlusRatio: number('lora-plus', flags.loraPlus),
    schedule: oneOf('schedule', SCHEDULES, flags.schedule),
    warmUpSteps:
      flags.warmUp === undefined ? Math.min(MOST_WARM_UP, Math.floor(steps / 10)) : number('warm-up', flags.warmUp),
    steps,
    weightDecay: number('weight-decay', flags.weightDecay),
    maxGradNorm: number('max-grad-norm', flags.maxGradNorm),
    batchSize,
    accumulation,
    maxLength,
    packing: flags.packing ?? false,
    recompute: flags.recompute ?? false,
    seed: number('seed', flags.seed),
    evalEvery:
      flags.evalEvery === undefined ? Math.max(1, Math.ceil(steps / 10)) : number('eval-every', flags.evalEvery),
    patience: flags.patience === undefined ? 0 : number('patience', flags.patience),
    saveEvery:
      flags.saveEvery === undefined
        ? Math.max(1, Math.min(100, Math.ceil(steps / 10)))
        : number('save-every', flags.saveEvery),
  }
}

/** The blocks of a GGUF have no form in which a gradient passes through them. */
function trainedOn(flags: TrainFlags): QuantiseOptions | undefined {
  const quantise = parseQuantise(flags)
  if (quantise?.method !== 'keep') {
    if (quantise?.rounding !== 'gptq') return quantise
    throw new UserError('--method gptq is for compile; leave it out to train.')
  }
  throw new UserError('--quantize keep is for compile; use --quantize int4 to train beside a small base.')
}
