// Pruning at random: dare_linear, dare_ties and their _svd forms (Yu et al., "Language models are Super Mario", 2024).
import type { Stream } from './threefry.ts'

/**
 * Drop and rescale: each entry is kept with probability `density`, independently, and divided by it, so that its
 * expectation stays: E[mᵢ·xᵢ/density] = xᵢ. Entry i is kept where the stream's number i is below `density`.
 */
export function dropAtRandom(values: Float32Array, density: number, draw: Stream): Float32Array {
  if (density >= 1) return values
  const chances = draw(values.length)
  return values.map((value, i) => ((chances[i] as number) < density ? value / density : 0))
}
