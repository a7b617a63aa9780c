// breadcrumbs and breadcrumbs_ties: pruning at both ends (Davari and Belilovsky, "Model Breadcrumbs", 2023).
import { countKept, keepLargest } from './magnitude-prune.ts'

/**
 * Of n entries ordered by |x| the ⌊gamma·n⌋ largest are dropped as outliers, the next k = ⌊density·n⌋ are kept, the rest
 * is dropped. Where less than k would remain, fewer outliers are dropped. Of entries equal in size the one of lower
 * index counts as larger.
 */
export function pruneBothEnds(values: Float32Array, density: number, gamma: number, about: string): Float32Array {
  const n = values.length
  if (density >= 1) return values
  const kept = countKept(n, density, about)
  const outliers = Math.min(Math.floor(gamma * n), n - kept)
  const dropped = keepLargest(values, outliers)
  return keepLargest(values, outliers + kept).map((value, i) => (dropped[i] === 0 ? value : 0))
}
