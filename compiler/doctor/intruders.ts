// Intruder dimensions: leading directions of W0 + ΔW that W0 did not have (Shuttleworth et al., "LoRA vs full
// fine-tuning: an illusion of equivalence", 2024).
import type { LoraModule } from '../combine/input.ts'
import { type ChangedMatrix, krylovTriplets } from './krylov.ts'

/** A direction of W0 + ΔW whose cosine with every leading direction of W0 is below this is an intruder. */
export const INTRUDER_COSINE = 0.5

export interface Intruders {
  /** Directions of W0 + ΔW that were looked at. */
  readonly k: number
  readonly count: number
  /** Of W0 + ΔW, descending. */
  readonly values: readonly number[]
  /** Per direction, the largest |cosine| of its left singular vector with the first k + r ones of W0. */
  readonly cosines: readonly number[]
  /** How exact the singular vectors are: largest residual relative to σ₁, of either matrix. */
  readonly residual: number
}

/**
 * The first k left singular vectors of W0 + ΔW against the first k + r of W0: a change of rank r moves a direction
 * down by at most r places (Weyl), so one that is like none of these is not one of W0's that lost its place.
 */
export function intrudersOf(W: Float32Array, change: LoraModule, k: number): Intruders {
  const matrix: ChangedMatrix = { W, rows: change.out, columns: change.in }
  const before = krylovTriplets(matrix, k + change.r)
  const after = krylovTriplets({ ...matrix, change }, k)
  const cosines = after.left.map((y) => before.left.reduce((most, x) => Math.max(most, Math.abs(dot(x, y))), 0))
  return {
    k: after.values.length,
    count: cosines.filter((cosine) => cosine < INTRUDER_COSINE).length,
    values: after.values,
    cosines,
    residual: Math.max(before.residual, after.residual),
  }
}

function dot(x: Float64Array, y: Float64Array): number {
  let sum = 0
  for (let i = 0; i < x.length; i += 1) sum += (x[i] as number) * (y[i] as number)
  return sum
}
