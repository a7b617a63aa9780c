// Qwen 3: queries and keys are normed head by head.
import { LLAMA_LAYOUT } from '../decoder.ts'
import { ATTENTION, biases, type Family, SILU } from './family.ts'
import { upperWindows } from './qwen2.ts'

export const qwen3: Family = {
  layout: { ...LLAMA_LAYOUT, qkNorm: 'head' },
  defaults: { num_key_value_heads: 32, head_dim: 128, max_position_embeddings: 32_768 },
  activations: SILU,
  honours: ['attention_bias', 'use_sliding_window', 'sliding_window', 'layer_types'],
  traits: (given, { layers }) => ({
    ...biases([given.boolean('attention_bias'), ATTENTION]),
    ...upperWindows(given, layers),
  }),
}
