// Phi 3 and 4: fused linears in Hugging Face's own order, a window, a head that may turn in part, longrope.
import type { Architecture } from './architecture.ts'
import { DECODER_GLOBALS, DECODER_KEYS, DECODER_LAYER, decoderConfig } from './decoder-config.ts'

const { attn_q: _q, attn_k: _k, attn_v: _v, ffn_gate: _gate, ffn_up: _up, ...layer } = DECODER_LAYER

export const phi3: Architecture = {
  name: 'phi3',
  globals: DECODER_GLOBALS,
  layer: { ...layer, attn_qkv: { to: 'self_attn.qkv_proj' }, ffn_up: { to: 'mlp.gate_up_proj' } },
  layers: 'model.layers',
  keys: [...DECODER_KEYS, 'attention.sliding_window', 'rope.scaling.attn_factor'],
  config: (metadata, tensors) => {
    const config = decoderConfig(metadata, tensors, { turnsPart: true })
    const turned = metadata.number('phi3.rope.dimension_count')
    return {
      model_type: 'phi3',
      ...config,
      sliding_window: metadata.number('phi3.attention.sliding_window') || null,
      original_max_position_embeddings: metadata.number('phi3.rope.scaling.original_context_length'),
      partial_rotary_factor: turned === undefined ? 1 : turned / Number(config.head_dim),
    }
  },
}
