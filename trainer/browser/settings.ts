// What a person chooses in a page, and the options of a run that it means. Kept beside the run, so that it goes on as itself.
import { z } from 'zod'
import { EMBEDDING_MODULE, type QuantiseOptions } from '../../compiler/quantise/spec.ts'
import { SCHEDULES } from '../optimise/schedule.ts'
import type { TrainOptions } from '../run/options.ts'

export const PRECISIONS = ['float32', 'int8', 'int4'] as const
export const PROVIDERS = ['auto', 'webgpu', 'wasm'] as const
/** Longer than any list of a base's linears. */
const MAX_TARGETS_CHARS = 2000

/** Bounds are those of `checkOptions` and `selectLora`, which say them in sentences. */
export const Settings = z.strictObject({
  r: z.number(),
  alpha: z.number(),
  /** A preset, names with commas, or a regex. */
  targetModules: z.string().max(MAX_TARGETS_CHARS),
  useRslora: z.boolean(),
  useDora: z.boolean(),
  dropout: z.number(),
  /** How the frozen base is held. */
  precision: z.enum(PRECISIONS),
  learningRate: z.number(),
  schedule: z.enum(SCHEDULES),
  /** Null: as many as three epochs have. */
  steps: z.number().nullable(),
  batchSize: z.number(),
  /** Null: 512, or what the base has. */
  maxLength: z.number().nullable(),
  recompute: z.boolean(),
  seed: z.number(),
  /** Of the examples, to measure the loss on. */
  heldOutShare: z.number(),
  /** Steps between checkpoints; null: a twentieth of all, 25 at most. */
  saveEvery: z.number().nullable(),
  provider: z.enum(PROVIDERS),
  /** Of WebAssembly; null: one a core, 8 at most. */
  threads: z.number().nullable(),
})
export type Settings = z.infer<typeof Settings>

const EPOCHS = 3
const DEFAULT_LENGTH = 512
/** A tenth of the steps is usual where nothing else is known; more than this gains nothing. */
const MOST_WARM_UP = 100
/** What a reload may cost, in steps. */
const MOST_UNSAVED = 25
const PRESETS = ['all-linear', 'attention', 'mlp']

export function longestOf({ maxLength }: Settings, maxPositions: number): number {
  return maxLength ?? Math.min(DEFAULT_LENGTH, maxPositions)
}

/** `examples`: of one epoch. */
export function optionsOf(settings: Settings, maxPositions: number, examples: number): TrainOptions {
  const { batchSize, precision, saveEvery } = settings
  const steps = settings.steps ?? Math.max(1, Math.ceil((EPOCHS * examples) / Math.max(1, batchSize)))
  const quantise: QuantiseOptions | undefined =
    precision === 'float32'
      ? undefined
      : {
          method: precision,
          block: 32,
          grid: precision === 'int4' ? 'affine' : 'symmetric',
          rounding: 'rtn',
          // onnxruntime-web has no lookup in a table of codes.
          keep: [EMBEDDING_MODULE],
          eight: [],
        }
  return {
    lora: {
      r: settings.r,
      alpha: settings.alpha,
      targetModules: targets(settings.targetModules),
      rankPattern: {},
      alphaPattern: {},
      useRslora: settings.useRslora,
      useDora: settings.useDora,
      init: 'default',
      dropout: settings.dropout,
    },
    ...(quantise && { quantise }),
    learningRate: settings.learningRate,
    loraPlusRatio: 1,
    schedule: settings.schedule,
    warmUpSteps: Math.min(MOST_WARM_UP, Math.floor(steps / 10)),
    steps,
    weightDecay: 0,
    maxGradNorm: 1,
    batchSize,
    accumulation: 1,
    maxLength: longestOf(settings, maxPositions),
    packing: false,
    recompute: settings.recompute,
    seed: settings.seed,
    evalEvery: Math.max(1, Math.ceil(steps / 10)),
    patience: 0,
    saveEvery: saveEvery ?? Math.max(1, Math.min(MOST_UNSAVED, Math.ceil(steps / 20))),
  }
}

/** A list, or the one word that is a preset; whatever else is a regex. */
function targets(text: string): readonly string[] | string {
  if (PRESETS.includes(text) || !/^[\w.,\s-]+$/.test(text)) return text
  return text.split(/[,\s]+/).filter((name) => name !== '')
}
