// Qwen 2 and 2.5: biases on queries, keys and values; the upper layers may see a window only.
import { LLAMA_LAYOUT } from '../decoder.ts'
import { ATTENTION, type Family, type Given, SILU, slidingBy, windows } from './family.ts'

export const qwen2: Family = {
  layout: LLAMA_LAYOUT,
  defaults: { num_key_value_heads: 32, max_position_embeddings: 32_768 },
  activations: SILU,
  honours: ['use_sliding_window', 'sliding_window', 'layer_types'],
  traits: (given, { layers }) => ({ biases: ATTENTION.slice(0, 3), ...upperWindows(given, layers) }),
}

/** Layers from `max_window_layers` on, where `use_sliding_window` is on. */
export function upperWindows(given: Given, layers: number) {
  const window = given.boolean('use_sliding_window') ? (given.count('sliding_window') ?? 4096) : undefined
  const first = given.count('max_window_layers', 0) ?? 28
  return windows(
    window,
    layers,
    slidingBy(given, (layer) => layer >= first),
  )
}
