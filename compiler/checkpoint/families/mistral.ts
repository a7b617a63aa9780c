// Mistral: a Llama whose every layer may see a window only.
import { LLAMA_LAYOUT } from '../decoder.ts'
import { type Family, SILU, windows } from './family.ts'

export const mistral: Family = {
  layout: LLAMA_LAYOUT,
  defaults: { num_key_value_heads: 8, max_position_embeddings: 131_072, sliding_window: 4096 },
  activations: SILU,
  honours: ['sliding_window'],
  traits: (given, { layers }) => windows(given.count('sliding_window'), layers, () => true),
}
