// Adapters that were trained here for PEFT to load: which base, which method, and the text that both are asked about.
import { join } from 'node:path'
import type { Example } from '../../trainer/data/example.ts'
import type { LoraOptions } from '../../trainer/lora/select.ts'
import type { TrainOptions } from '../../trainer/run/options.ts'
import { seeded } from '../compiler/random.ts'
import { LORA } from './learning.ts'

export const PARITY = join(import.meta.dirname, '../parity/oracle')
export const TRAINED = join(PARITY, 'train/trained')
export const VOCAB = 43

interface TrainedCase {
  readonly base: string
  readonly lora: LoraOptions
}

const CASES: Readonly<Record<string, TrainedCase>> = {
  plain: { base: 'llama-llama3', lora: { ...LORA, r: 3, alpha: 7 } },
  patterns: {
    base: 'qwen3',
    lora: {
      ...LORA,
      r: 4,
      alpha: 9,
      useRslora: true,
      rankPattern: { q_proj: 2, down_proj: 7 },
      alphaPattern: { down_proj: 5 },
    },
  },
  dora: { base: 'llama-llama3', lora: { ...LORA, r: 3, alpha: 7, useDora: true, targetModules: 'attention' } },
  pissa: { base: 'gemma2', lora: { ...LORA, r: 2, alpha: 5, init: 'pissa', targetModules: 'mlp' } },
  'pissa-rslora': {
    base: 'phi3',
    lora: { ...LORA, r: 3, alpha: 5, init: 'pissa', useRslora: true, rankPattern: { qkv_proj: 2 } },
  },
  gpt2: { base: 'gpt2', lora: { ...LORA, r: 3, alpha: 7 } },
}
export const trainedCases = Object.entries(CASES)

export const basePath = (base: string) => join(PARITY, 'decoders', base, 'base')

const random = seeded(17)
const exampleOf = (length: number): Example => {
  const ids = Array.from({ length }, () => 3 + Math.floor(random() * (VOCAB - 3)))
  return { ids, isTarget: ids.map((_, at) => at > 2) }
}
export const examples = Array.from({ length: 8 }, (_, at) => exampleOf(9 + at))
/** What both are asked about. */
export const asked = exampleOf(19)

export const trainOptions = (lora: LoraOptions): TrainOptions => ({
  lora,
  learningRate: 5e-2,
  loraPlusRatio: 1,
  schedule: 'constant',
  warmUpSteps: 0,
  steps: 10,
  weightDecay: 0.01,
  maxGradNorm: 1,
  batchSize: 4,
  accumulation: 1,
  maxLength: 32,
  packing: false,
  recompute: false,
  seed: 3,
  evalEvery: 0,
  patience: 0,
  saveEvery: 100,
})
