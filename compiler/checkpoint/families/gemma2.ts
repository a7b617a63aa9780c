// Gemma 2: norms by 1 + w on both sides of each half, soft caps, a scaled embedding, every second layer with a window.
import { type Layout, LLAMA_LAYOUT } from '../decoder.ts'
import { ATTENTION, biases, type Facts, type Family, type Given, slidingBy, windows } from './family.ts'

export const GEMMA_LAYOUT: Layout = {
  ...LLAMA_LAYOUT,
  activation: 'gelu_tanh',
  norm: 'one-plus',
  norms: {
    attentionIn: 'input_layernorm',
    attentionOut: 'post_attention_layernorm',
    mlpIn: 'pre_feedforward_layernorm',
    mlpOut: 'post_feedforward_layernorm',
  },
}

export const GEMMA_KEYS = [
  'attention_bias',
  'sliding_window',
  'layer_types',
  'attn_logit_softcapping',
  'final_logit_softcapping',
]

export const gemma2: Family = {
  layout: GEMMA_LAYOUT,
  defaults: {
    num_key_value_heads: 4,
    head_dim: 256,
    max_position_embeddings: 8192,
    tie_word_embeddings: true,
    sliding_window: 4096,
    query_pre_attn_scalar: 256,
    attn_logit_softcapping: 50,
    final_logit_softcapping: 30,
  },
  activations: ['gelu_pytorch_tanh'],
  honours: GEMMA_KEYS,
  traits: (given, facts) => gemmaTraits(given, facts, (layer) => layer % 2 === 0),
}

export function gemmaTraits(given: Given, { layers, hiddenSize }: Facts, isSliding: (layer: number) => boolean) {
  const attentionSoftcap = given.number('attn_logit_softcapping')
  const logitSoftcap = given.number('final_logit_softcapping')
  return {
    ...biases([given.boolean('attention_bias'), ATTENTION]),
    ...windows(given.count('sliding_window'), layers, slidingBy(given, isSliding)),
    embeddingScale: Math.sqrt(hiddenSize),
    attentionScale: (given.number('query_pre_attn_scalar') ?? 256) ** -0.5,
    ...(attentionSoftcap === undefined ? {} : { attentionSoftcap }),
    ...(logitSoftcap === undefined ? {} : { logitSoftcap }),
  }
}
