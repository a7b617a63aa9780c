// della and della_linear: pruning at random, less likely for large entries (Deep et al., "DELLA-Merging", 2024).
import type { Stream } from './threefry.ts'

/**
 * MAGPRUNE, row by row of a delta [out, in]: the entry of rank k by |x| within its row of n, smallest first, is kept
 * with probability p = density − ε + 2ε·k/(n − 1) and divided by p, so that its expectation stays. Of entries equal in
 * size the one of lower index ranks lower. mergekit rescales by a norm of the whole tensor instead, which has no such
 * expectation.
 */
export function dropByRank(
  values: Float32Array,
  columns: number,
  density: number,
  epsilon: number,
  draw: Stream,
): Float32Array {
  if (density >= 1) return values
  const chances = draw(values.length)
  const kept = new Float32Array(values.length)
  for (let start = 0; start < values.length; start += columns) {
    const sizes = values.subarray(start, start + columns).map(Math.abs)
    const order = Uint32Array.from({ length: columns }, (_, i) => i)
    order.sort((a, b) => (sizes[a] as number) - (sizes[b] as number) || a - b)
    order.forEach((column, rank) => {
      const chance = columns === 1 ? density : density - epsilon + (2 * epsilon * rank) / (columns - 1)
      const i = start + column
      if ((chances[i] as number) < chance) kept[i] = (values[i] as number) / chance
    })
  }
  return kept
}
