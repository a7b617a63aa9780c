// The best part of low rank of a dense difference, at a cost that is known beforehand.
import { Basis } from '../combine/basis.ts'
import { gaussianBlock, multiply, multiplyTransposed } from '../combine/block-lanczos.ts'
import type { Factors, Truncation } from '../combine/combined.ts'
import { smallSvd } from '../combine/small-svd.ts'

/** Columns beyond the wanted rank, and passes over D: see Halko, Martinsson and Tropp, 2011, sections 4.2 and 4.5. */
const EXTRA_COLUMNS = 8
const PASSES = 4

/**
 * Factors B·A ≈ D, row-major [out, in], of rank at most `rank`, by a randomised range finder with power iterations:
 * V = orth(random); U = orth(D·V), V = orth(Dᵀ·U), …; then with the last W = Dᵀ·U = V·C, D ≈ U·Cᵀ·Vᵀ and the SVD of the
 * small Cᵀ gives the rest. B = U·X·√σ and A = √σ·Yᵀ·Vᵀ share the scale. A difference whose noise is flat, as that of two
 * rounded checkpoints is, has no gap that a solver could converge to; this one stops after `PASSES` all the same.
 *
 * `lost` is ‖D − B·A‖² up to the rounding to fp32, whatever the random start found: the part left out is orthogonal.
 */
export function leadingPart(D: Float32Array, out: number, columns: number, rank: number) {
  const width = Math.min(rank + EXTRA_COLUMNS, out, columns)
  let [U, V] = [new Basis(out), new Basis(columns)]
  let block = V.extend(gaussianBlock(columns, width)).added
  let coefficients: readonly Float64Array[] = []
  for (let pass = 0; pass < PASSES; pass += 1) {
    U = new Basis(out)
    V = new Basis(columns)
    const ahead = U.extend(multiply(D, out, columns, block)).added
    const back = V.extend(multiplyTransposed(D, out, columns, ahead))
    block = back.added
    coefficients = back.coefficients
  }
  // Cᵀ, row-major [size of U, size of V].
  const core = new Float64Array(U.size * V.size)
  coefficients.forEach((column, i) => {
    core.set(column.subarray(0, V.size), i * V.size)
  })
  let energy = 0
  for (let i = 0; i < D.length; i += 1) energy += (D[i] as number) ** 2
  if (core.length === 0) return { factors: zero(out, columns), truncation: { energy, lost: energy } }
  const svd = smallSvd(core, U.size, V.size)
  const r = Math.min(rank, svd.values.length)
  const factors = { A: new Float32Array(r * columns), B: new Float32Array(out * r), r, in: columns, out }
  let kept = 0
  for (let i = 0; i < r; i += 1) {
    const value = svd.values[i] as number
    kept += value * value
    const [u, v] = [U.combine(svd.left(i)), V.combine(svd.right(i))]
    const root = Math.sqrt(value)
    for (let j = 0; j < columns; j += 1) factors.A[i * columns + j] = root * (v[j] as number)
    for (let j = 0; j < out; j += 1) factors.B[j * r + i] = root * (u[j] as number)
  }
  const truncation: Truncation = { energy, lost: Math.max(0, energy - kept) }
  return { factors, truncation }
}

function zero(out: number, columns: number): Factors {
  return { A: new Float32Array(columns), B: new Float32Array(out), r: 1, in: columns, out }
}
