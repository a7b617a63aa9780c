// Qwen3: a norm on each head's queries and keys, no biases.
import type { Architecture } from './architecture.ts'
import { DECODER_GLOBALS, DECODER_KEYS, DECODER_LAYER, decoderConfig } from './decoder-config.ts'

export const qwen3: Architecture = {
  name: 'qwen3',
  globals: DECODER_GLOBALS,
  layer: {
    ...DECODER_LAYER,
    attn_q_norm: { to: 'self_attn.q_norm' },
    attn_k_norm: { to: 'self_attn.k_norm' },
  },
  layers: 'model.layers',
  keys: DECODER_KEYS,
  config: (metadata, tensors) => ({ model_type: 'qwen3', ...decoderConfig(metadata, tensors), attention_bias: false }),
}
