// Gemma 3, text only: Gemma 2 with normed queries and keys, five layers of six with a window and a θ of their own.
import { shortestFloat } from '../shortest-float.ts'
import type { Architecture } from './architecture.ts'
import { DECODER_KEYS } from './decoder-config.ts'
import { GEMMA_GLOBALS, GEMMA_LAYER, gemmaConfig } from './gemma2.ts'

const LAYERS_OF_27B = 62

export const gemma3: Architecture = {
  name: 'gemma3',
  globals: GEMMA_GLOBALS,
  layer: {
    ...GEMMA_LAYER,
    attn_q_norm: { to: 'self_attn.q_norm', altered: 'one-plus' },
    attn_k_norm: { to: 'self_attn.k_norm', altered: 'one-plus' },
  },
  layers: 'model.layers',
  keys: [...DECODER_KEYS, 'attention.sliding_window', 'rope.freq_base_swa', 'final_logit_softcapping'],
  config: (metadata, tensors) => ({
    model_type: 'gemma3_text',
    ...gemmaConfig(metadata, tensors, LAYERS_OF_27B),
    sliding_window_pattern: 6,
    rope_local_base_freq: shortestFloat(metadata.number('gemma3.rope.freq_base_swa') ?? 10_000),
    final_logit_softcapping: metadata.number('gemma3.final_logit_softcapping') ?? null,
  }),
}
