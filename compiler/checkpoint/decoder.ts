// What a decoder is made of: sizes, and how it departs from a plain Llama. The graph is built from nothing else.
import type { Architecture } from '../contract.ts'

export interface Decoder {
  readonly architecture: Architecture
  readonly rmsNormEps: number
  readonly ropeTheta: number
  /** The head is the embedding. */
  readonly tiedHead: boolean
  /** Of generation_config.json where it names any, as `generate` does. */
  readonly eosTokenIds: readonly number[]
  /** What the configuration adds to the family's layers; absent where it adds nothing. Part of the base's digest. */
  readonly traits?: Traits
}

export interface Traits {
  /** Linears of a layer that have a bias, as the layout spells them. */
  readonly biases?: readonly string[]
  /** Per layer, how many tokens it sees, itself included; null sees all. */
  readonly windows?: readonly (number | null)[]
  readonly ropeScaling?: RopeScaling
  /** θ of the layers that have a window. */
  readonly localRopeTheta?: number
  /** Leading part of a head that turns; the whole head where absent. */
  readonly rotaryDim?: number
  /** Layers without rotary embedding. */
  readonly unturned?: readonly number[]
  /** Factor of the scores; 1/√D where absent. */
  readonly attentionScale?: number
  readonly attentionSoftcap?: number
  readonly embeddingScale?: number
  readonly residualScale?: number
  readonly logitScale?: number
  readonly logitSoftcap?: number
}

export type RopeScaling =
  | { readonly type: 'linear'; readonly factor: number }
  | {
      readonly type: 'llama3'
      readonly factor: number
      readonly low: number
      readonly high: number
      readonly original: number
    }
  | {
      readonly type: 'yarn'
      readonly factor: number
      readonly betaFast: number
      readonly betaSlow: number
      readonly original: number
      readonly truncate: boolean
      readonly attentionFactor: number
    }
  | { readonly type: 'divided'; readonly divisors: readonly number[]; readonly attentionFactor: number }

/** Where a family keeps its tensors, and what every one of its layers has. */
export interface Layout {
  readonly embedding: string
  /** The table of learned positions. Without one, heads turn by rotary embeddings. */
  readonly positions?: string
  readonly finalNorm: string
  readonly layer: (index: number) => string
  /** Queries, keys and values: three linears, or one that gives all, side by side. */
  readonly qkv: readonly [string, string, string] | readonly [string]
  readonly o: string
  /** Gate and up, one that gives both, or one without a gate. */
  readonly mlp: readonly [string, string] | readonly [string]
  readonly gated: boolean
  readonly down: string
  readonly activation: 'silu' | 'gelu_tanh'
  /** Before and after each half of a layer. */
  readonly norms: {
    readonly attentionIn?: string
    readonly attentionOut?: string
    readonly mlpIn?: string
    readonly mlpOut?: string
  }
  /** `one-plus`: RMS norm by 1 + w. `layer`: mean taken off, with a bias. */
  readonly norm: 'rms' | 'one-plus' | 'layer'
  /** Norms of queries and keys: over each head, or over all heads at once. */
  readonly qkNorm?: 'head' | 'width'
  /** Linears are stored [in, out]. */
  readonly storesTransposed: boolean
}

export const HEAD = 'lm_head.weight'

export const LLAMA_LAYOUT: Layout = {
  embedding: 'model.embed_tokens.weight',
  finalNorm: 'model.norm',
  layer: (index) => `model.layers.${index}`,
  qkv: ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'],
  o: 'self_attn.o_proj',
  mlp: ['mlp.gate_proj', 'mlp.up_proj'],
  gated: true,
  down: 'mlp.down_proj',
  activation: 'silu',
  norms: { attentionIn: 'input_layernorm', mlpIn: 'post_attention_layernorm' },
  norm: 'rms',
  storesTransposed: false,
}
