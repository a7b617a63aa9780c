// Llama 1 to 3, SmolLM2 and Mistral: GGUF calls all of them "llama".
import type { Architecture } from './architecture.ts'
import { DECODER_GLOBALS, DECODER_KEYS, DECODER_LAYER, decoderConfig } from './decoder-config.ts'

export const llama: Architecture = {
  name: 'llama',
  globals: DECODER_GLOBALS,
  layer: {
    ...DECODER_LAYER,
    attn_q: { to: 'self_attn.q_proj', altered: 'turned' },
    attn_k: { to: 'self_attn.k_proj', altered: 'turned' },
  },
  layers: 'model.layers',
  keys: DECODER_KEYS,
  config: (metadata, tensors) => ({
    model_type: 'llama',
    ...decoderConfig(metadata, tensors),
    attention_bias: tensors.has('blk.0.attn_q.bias'),
    mlp_bias: tensors.has('blk.0.ffn_up.bias'),
  }),
}
