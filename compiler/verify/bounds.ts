// How far two correct evaluations of one model may be apart: it follows from the storage type and the sizes.
//
//   error ≤ C · M · (1 + ρ) · (u·√N + v·√L)
//
// u: unit roundoff of the arithmetic, 2⁻²⁴ in fp32. A sum of n terms in another order differs by u·n at worst and, as the
// roundings are independent, by about u·√n; N adds up the lengths of all sums on the longest path from token to logit.
// v: unit roundoff of the stored weights, which merging rounds once more; L linears follow one another.
// M: the largest |logit|, the scale of what is compared.
// ρ: the largest ‖ΔW‖ / ‖W‖ of a linear. Intermediate values, and attention scores before their softmax, grow with it
// where the logits, behind a norm, do not.
// Where weights are int8, their operator rounds the activations, block by block, to 1/127 of the block's largest: about 2⁻⁸
// of them each time. Those errors are as independent, and add D · M · (1 + ρ) · 2⁻⁸ · √L₈, L₈ counting such linears in a row.
// C: what the nonlinear parts may amplify; docs/artifact-format.md says how much room it leaves.
import type { Architecture, Manifest } from '../contract.ts'
import { roundsActivations, type Storage } from '../quantise/spec.ts'

const COMPUTE_ROUNDOFF = 2 ** -24
const STORAGE_ROUNDOFF: Readonly<Record<Manifest['dtype'], number>> = { float32: 2 ** -24 }
const AMPLIFICATION = 32
const ACTIVATION_ROUNDOFF = 2 ** -8
/** D. Rounding of activations averages out over a row, so less room is left than for C. */
const ACTIVATION_AMPLIFICATION = 4
/** Of the linears of a layer, those on one path: v, o, gate or up, down. */
const LINEARS_IN_SEQUENCE = 4

/** What a manifest says of its sizes, be it a decoder's or an encoder's. */
export interface Sized {
  readonly dtype: Manifest['dtype']
  readonly quantisation?: Manifest['quantisation']
  readonly base: { readonly architecture: Sizes }
}

type Sizes = Pick<Architecture, 'hiddenSize' | 'intermediateSize' | 'layers' | 'heads' | 'headDim'>

export interface Bounds {
  readonly maxError: number
  /**
   * Logits that are nowhere further apart than ε give log-ratios within 2ε, so by Hoeffding's lemma KL ≤ (2ε)² / 8 = ε² / 2.
   */
  readonly maxKl: number
}

export interface Scale {
  /** Of the longest probe. */
  readonly tokens: number
  /** Of the widest low-rank path. */
  readonly rank: number
  /** M */
  readonly magnitude: number
  /** ρ */
  readonly change: number
}

export function boundsOf({ base, dtype, quantisation }: Sized, { tokens, rank, magnitude, change }: Scale): Bounds {
  const { architecture } = base
  const sums = COMPUTE_ROUNDOFF * Math.sqrt(longestPath(architecture, tokens, rank))
  const stored = STORAGE_ROUNDOFF[dtype] * Math.sqrt(architecture.layers * LINEARS_IN_SEQUENCE)
  const rounded =
    ACTIVATION_AMPLIFICATION * ACTIVATION_ROUNDOFF * Math.sqrt(roundedInSequence(architecture, quantisation))
  const maxError = magnitude * (1 + change) * (AMPLIFICATION * (sums + stored) + rounded)
  return { maxError, maxKl: maxError ** 2 / 2 }
}

/** Terms of all sums in a row: norms, projections with their low-rank path, scores, context, MLP, head. */
function longestPath(architecture: Sizes, tokens: number, rank: number): number {
  const { hiddenSize, intermediateSize, layers, heads, headDim } = architecture
  const linears = hiddenSize + heads * headDim + hiddenSize + intermediateSize + LINEARS_IN_SEQUENCE * rank
  const layer = 2 * hiddenSize + linears + headDim + tokens
  return layers * layer + 2 * hiddenSize
}

/** L₈: linears on one path whose operator rounds its activations. */
function roundedInSequence({ layers }: Sizes, quantisation: Manifest['quantisation']): number {
  if (quantisation === undefined) return 0
  const { method, bits, activations, exceptions } = quantisation
  const rounds = (storage: Storage) => roundsActivations(storage, activations)
  const others = Object.keys(exceptions).filter((module) => rounds(exceptions[module] ?? 'float32'))
  const usual =
    method === 'int8' || method === 'int4' || method === 'keep' ? rounds(bits === 8 ? 'int8' : 'int4') : false
  const inLayers = usual || others.some((module) => module.startsWith('model.layers.'))
  // The embedding's own int8 is looked up, not multiplied by; a tied head is.
  const head = usual || others.length > 0 ? 1 : 0
  return head + (inLayers ? layers * LINEARS_IN_SEQUENCE : 0)
}
