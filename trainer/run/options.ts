// Everything that a run depends on, besides the base and the data.
import { inputError, Problems } from '../../compiler/errors.ts'
import type { QuantiseOptions } from '../../compiler/quantise/spec.ts'
import type { LoraOptions } from '../lora/select.ts'
import type { SCHEDULES } from '../optimise/schedule.ts'

export interface TrainOptions {
  readonly lora: LoraOptions
  /** How the frozen base is held; float32 without. */
  readonly quantise?: QuantiseOptions
  readonly learningRate: number
  /** LoRA+: B's rate over A's. */
  readonly loraPlusRatio: number
  readonly schedule: (typeof SCHEDULES)[number]
  readonly warmUpSteps: number
  /** Updates in all. */
  readonly steps: number
  readonly weightDecay: number
  readonly maxGradNorm: number
  /** Rows of a run of the graph, and runs of an update. */
  readonly batchSize: number
  readonly accumulation: number
  readonly maxLength: number
  readonly packing: boolean
  readonly recompute: boolean
  readonly seed: number
  /** Steps between evaluations; 0 for none but the first and the last. */
  readonly evalEvery: number
  /** Evaluations without a gain that end the run; 0 for none. The best parameters are then the result. */
  readonly patience: number
  /** Steps between checkpoints. */
  readonly saveEvery: number
}

/** Beyond any run on one machine; keeps counters exact and typing errors cheap. */
const MAX_STEPS = 10_000_000
const MAX_BATCH = 4096
/** What threefry takes. */
const MAX_SEED = 2 ** 32 - 1

/** Throws `InputError` with every option out of bounds. */
export function checkOptions(options: TrainOptions, maxPositions: number): void {
  const problems = new Problems()
  const whole = (name: string, value: number, least: number, most: number, help: string) => {
    if (Number.isInteger(value) && value >= least && value <= most) return
    problems.add('train-option', `${name} is ${value}; give a whole number from ${least} to ${most}${help}`)
  }
  const positive = (name: string, value: number, most: number, help: string) => {
    if (value > 0 && value <= most) return
    problems.add('train-option', `${name} is ${value}; give a number above 0 and at most ${most}, ${help}`)
  }
  positive('the learning rate', options.learningRate, 1, '1e-4 to 2e-3 are usual for LoRA')
  positive('the ratio of LoRA+', options.loraPlusRatio, 1024, '1 for plain LoRA, 16 as in the paper')
  positive('the largest gradient norm', options.maxGradNorm, 1e6, '1 is usual')
  if (!(options.weightDecay >= 0 && options.weightDecay < 1)) {
    problems.add('train-option', `the weight decay is ${options.weightDecay}; give a number from 0 to below 1`)
  }
  whole('the number of steps', options.steps, 1, MAX_STEPS, '')
  whole('the number of warm-up steps', options.warmUpSteps, 0, options.steps, ', the number of steps')
  whole('the batch size', options.batchSize, 1, MAX_BATCH, '')
  whole('accumulation', options.accumulation, 1, MAX_BATCH, '')
  whole('the longest example', options.maxLength, 2, maxPositions, ', the positions of the base')
  whole('the seed', options.seed, 0, MAX_SEED, '')
  whole('the steps between evaluations', options.evalEvery, 0, MAX_STEPS, '')
  whole('patience', options.patience, 0, MAX_STEPS, '')
  whole('the steps between checkpoints', options.saveEvery, 1, MAX_STEPS, '')
  problems.throwIfAny()
  if (options.patience > 0 && options.evalEvery === 0) {
    throw inputError('train-option', 'patience counts evaluations, and there are none; set the steps between them')
  }
}
