// What the configurations of the encoder families have in common: their facts as types, bounds, and how they are parsed.
import { z } from 'zod'
import type { EncoderArchitecture } from '../contract.ts'
import { inputError, type Problems, quote } from '../errors.ts'
import { describeIssues } from '../read-file.ts'

/** Names as transformers has them; each is one activation function. */
export const ACTIVATIONS = ['gelu', 'gelu_new', 'gelu_pytorch_tanh', 'relu', 'silu', 'tanh'] as const
export type Activation = (typeof ACTIVATIONS)[number]

export interface BertConfig {
  readonly family: 'bert'
  readonly activation: Activation
  readonly normEps: number
  readonly tokenTypes: number
}

export interface ModernBertConfig {
  readonly family: 'modernbert'
  readonly activation: Activation
  readonly normEps: number
  readonly normBias: boolean
  readonly attentionBias: boolean
  readonly mlpBias: boolean
  /** Per layer: attends to all tokens, not to those near it. */
  readonly isGlobal: readonly boolean[]
  readonly globalTheta: number
  readonly localTheta: number
  /** A token of a local layer attends as far as this many tokens to either side. */
  readonly reach: number
  readonly classifierPooling: 'cls' | 'mean'
  readonly classifierActivation: Activation
  readonly classifierBias: boolean
}

/** What a family's own file reads; the rest is the same for all. */
export interface FamilyConfig {
  readonly architecture: EncoderArchitecture
  readonly details: BertConfig | ModernBertConfig
}

// Each bound is beyond any published encoder; it limits what a configuration may make us allocate.
const MAX_SIZE = 1 << 20
const MAX_LAYERS = 1024
/** With the head size, the size of a table of rotary angles that no file backs. */
const MAX_POSITIONS = 1 << 17
const MAX_HEAD_DIM = 1024

export const Size = z.int().min(1).max(MAX_SIZE)
export const Layers = z.int().min(1).max(MAX_LAYERS)
export const Positions = z.int().min(1).max(MAX_POSITIONS)
export const Epsilon = z.number().positive().max(1)
/** Below 1, a frequency overflows fp32. */
export const Theta = z.number().min(1)

/** Keys at a value that changes nothing; anything else is refused with the way out. */
export type Unsupported = readonly (readonly [key: string, harmless: readonly unknown[], help: string])[]

/** The parsed configuration; adds to `problems` what is refused by name. Throws where its form is wrong. */
export function parseConfig<T>(
  schema: z.ZodType<T>,
  json: unknown,
  unsupported: Unsupported,
  where: string,
  problems: Problems,
): T {
  const parsed = schema.safeParse(json)
  if (!parsed.success) throw inputError('config-invalid', `${where}: ${describeIssues(parsed.error)}`)
  const given = new Map<string, unknown>(Object.entries(json as object))
  for (const [key, harmless, help] of unsupported) {
    if (!given.has(key) || harmless.some((value) => JSON.stringify(value) === JSON.stringify(given.get(key)))) continue
    problems.add('config-unsupported', `${where}: ${key} is ${quote(JSON.stringify(given.get(key)))}: ${help}`)
  }
  return parsed.data
}

/** Adds to `problems` where heads do not share the width evenly. */
export function headDimOf(hiddenSize: number, heads: number, where: string, problems: Problems): number {
  const headDim = hiddenSize / heads
  if (Number.isInteger(headDim) && headDim <= MAX_HEAD_DIM) return headDim
  problems.add(
    'config-invalid',
    `${where}: ${heads} heads cannot share a width of ${hiddenSize} evenly, at most ${MAX_HEAD_DIM} each`,
  )
  return 1
}
