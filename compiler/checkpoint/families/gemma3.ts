// Gemma 3, text only: Gemma 2 with normed queries and keys, five layers of six with a window and a θ of their own.
import type { Family } from './family.ts'
import { GEMMA_KEYS, GEMMA_LAYOUT, gemmaTraits } from './gemma2.ts'

export const gemma3: Family = {
  layout: { ...GEMMA_LAYOUT, qkNorm: 'head' },
  defaults: {
    num_key_value_heads: 4,
    head_dim: 256,
    max_position_embeddings: 131_072,
    tie_word_embeddings: true,
    sliding_window: 4096,
    query_pre_attn_scalar: 256,
    rope_theta: 1_000_000,
    rope_local_base_freq: 10_000,
  },
  activations: ['gelu_pytorch_tanh'],
  honours: GEMMA_KEYS,
  traits: (given, facts) => {
    const period = given.count('sliding_window_pattern') ?? given.count('_sliding_window_pattern') ?? 6
    return {
      ...gemmaTraits(given, facts, (layer) => (layer + 1) % period !== 0),
      localRopeTheta: given.number('rope_local_base_freq') ?? 10_000,
    }
  },
}
