// OLMo 2: norms after attention and MLP instead of before, and norms over the whole of the queries and the keys.
import type { Architecture } from './architecture.ts'
import { DECODER_GLOBALS, DECODER_KEYS, DECODER_LAYER, decoderConfig } from './decoder-config.ts'

const { attn_norm: _before, ffn_norm: _between, ...layer } = DECODER_LAYER

export const olmo2: Architecture = {
  name: 'olmo2',
  globals: DECODER_GLOBALS,
  layer: {
    ...layer,
    attn_q_norm: { to: 'self_attn.q_norm' },
    attn_k_norm: { to: 'self_attn.k_norm' },
    post_attention_norm: { to: 'post_attention_layernorm' },
    post_ffw_norm: { to: 'post_feedforward_layernorm' },
  },
  layers: 'model.layers',
  keys: DECODER_KEYS,
  config: (metadata, tensors) => ({ model_type: 'olmo2', ...decoderConfig(metadata, tensors), attention_bias: false }),
}
