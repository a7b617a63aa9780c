// Phi 3 and 4: one linear for queries, keys and values, one for gate and up; a head may turn in part.
import { LLAMA_LAYOUT } from '../decoder.ts'
import { type Family, SILU, windows } from './family.ts'

export const phi3: Family = {
  layout: { ...LLAMA_LAYOUT, qkv: ['self_attn.qkv_proj'], mlp: ['mlp.gate_up_proj'] },
  defaults: { max_position_embeddings: 4096, rms_norm_eps: 1e-5, original_max_position_embeddings: 4096 },
  activations: SILU,
  honours: ['sliding_window', 'partial_rotary_factor'],
  traits: (given, { layers }) => windows(given.count('sliding_window'), layers, () => true),
}
