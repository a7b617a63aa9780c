// The _svd forms, della and breadcrumbs: entries of the dense deltas are pruned and joined, then the rank is cut again.
import { leadingTriplets } from './block-lanczos.ts'
import type { Combined } from './combined.ts'
import { denseDelta } from './dense-delta.ts'
import type { Part } from './input.ts'
import type { Recipe } from './options.ts'
import { prune } from './prune.ts'
import { sum, ties } from './ties.ts'

/**
 * D = join over i of wᵢ · prune(sᵢ·Bᵢ·Aᵢ), dense [out, in]; then its best approximation of rank `rank`,
 * B' = U·√σ and A' = √σ·Vᵀ. The one family of methods that forms out × in, one module at a time.
 *
 * PEFT up to 0.20 weighted with wᵢ·sᵢ deltas that held sᵢ already, so `peftCompat` of '0.20' applies it twice.
 */
export function combineDeltas(
  parts: readonly Part[],
  recipe: Recipe,
  rank: number,
  elect: boolean,
  module: string,
): Combined {
  const [first] = parts as [Part]
  const { in: columns, out } = first
  const tensors = parts.map((part) => prune(denseDelta(part, module), columns, 'delta', part, module, recipe))
  const weights = parts.map(({ weight, scaling }) => (recipe.peftCompat === '0.20' ? weight * scaling : weight))
  const vote = recipe.peftCompat === false ? 'weighted' : 'unweighted'
  const D = elect ? ties(tensors, weights, recipe.majoritySign ?? 'total', vote) : sum(tensors, weights)
  let energy = 0
  for (let i = 0; i < D.length; i += 1) energy += (D[i] as number) ** 2
  const { values, left, right } = leadingTriplets(D, out, columns, rank)
  const r = values.length
  const A = new Float32Array(r * columns)
  const B = new Float32Array(out * r)
  values.forEach((value, i) => {
    const root = Math.sqrt(value)
    const u = left[i] as Float64Array
    const v = right[i] as Float64Array
    for (let j = 0; j < columns; j += 1) A[i * columns + j] = root * (v[j] as number)
    for (let j = 0; j < out; j += 1) B[j * r + i] = root * (u[j] as number)
  })
  const kept = values.reduceRight((total, value) => total + value * value, 0)
  return { factors: { A, B, r, in: columns, out }, truncation: { energy, lost: Math.max(0, energy - kept) } }
}
