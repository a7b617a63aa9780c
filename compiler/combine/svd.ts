// svd: the weighted sum of the deltas, compressed to a rank, with the energy kept and the exact error.
import type { Combined } from './combined.ts'
import type { Part } from './input.ts'
import { smallSvd } from './small-svd.ts'
import { thinQr } from './thin-qr.ts'

/**
 * The best approximation of D = Σᵢ cᵢ·Bᵢ·Aᵢ of rank at most `rank` (Eckart and Young), in double, without ever forming
 * the out × in matrix D.
 *
 * With F = [c₁B₁ … cₙBₙ] = Q_F·R_F and Gᵀ = [A₁; …; Aₙ]ᵀ = Q_G·R_G, thin QR of tall factors,
 *     D = F·G = Q_F·(R_F·R_Gᵀ)·Q_Gᵀ,
 * so the singular values of D are those of the core R_F·R_Gᵀ, of size Σ rᵢ, and its singular vectors are the core's,
 * turned by Q_F and Q_G. B' = Q_F·U·√σ and A' = √σ·Vᵀ·Q_Gᵀ share the scale, which suits a later cast to half floats.
 *
 * Energy is ‖D‖² = Σ σ²; lost is the sum over the values left out, which is ‖D − B'·A'‖² up to the rounding to fp32.
 * Cost: O((in + out)·(Σr)²), against O(in·out·min(in, out)) for the SVD of D.
 */
export function compress(parts: readonly [Part, ...Part[]], coefficients: readonly number[], rank: number): Combined {
  const { in: columns, out } = parts[0]
  const total = parts.reduce((sum, part) => sum + part.r, 0)
  const left = thinQr(
    parts.flatMap((part, place) => columnsOfB(part, coefficients[place] as number)),
    out,
  )
  const right = thinQr(parts.flatMap(rowsOfA), columns)
  const core = timesTransposed(left.R, left.k, right.R, right.k, total)
  const svd = smallSvd(core, left.k, right.k)
  const r = Math.min(rank, svd.values.length)
  const A = new Float32Array(r * columns)
  const B = new Float32Array(out * r)
  for (let i = 0; i < r; i += 1) {
    const root = Math.sqrt(svd.values[i] as number)
    const u = left.applyQ(svd.left(i))
    const v = right.applyQ(svd.right(i))
    for (let j = 0; j < columns; j += 1) A[i * columns + j] = root * (v[j] as number)
    for (let j = 0; j < out; j += 1) B[j * r + i] = root * (u[j] as number)
  }
  return {
    factors: { A, B, r, in: columns, out },
    truncation: { energy: sumOfSquares(svd.values), lost: sumOfSquares(svd.values.slice(r)) },
  }
}

function columnsOfB({ B, r, out }: Part, coefficient: number): Float64Array[] {
  return Array.from({ length: r }, (_, column) => {
    const values = new Float64Array(out)
    for (let row = 0; row < out; row += 1) values[row] = coefficient * (B[row * r + column] as number)
    return values
  })
}

function rowsOfA({ A, r, in: columns }: Part): Float64Array[] {
  return Array.from({ length: r }, (_, row) => Float64Array.from(A.subarray(row * columns, (row + 1) * columns)))
}

/** L·Rᵀ for row-major L [rows, inner] and R [columns, inner]. */
function timesTransposed(L: Float64Array, rows: number, R: Float64Array, columns: number, inner: number): Float64Array {
  const result = new Float64Array(rows * columns)
  for (let i = 0; i < rows; i += 1) {
    for (let j = 0; j < columns; j += 1) {
      let sum = 0
      for (let k = Math.max(i, j); k < inner; k += 1) {
        sum += (L[i * inner + k] as number) * (R[j * inner + k] as number)
      }
      result[i * columns + j] = sum
    }
  }
  return result
}

/** Smallest first, so that the small ones are not lost. `values` descend. */
function sumOfSquares(values: readonly number[]): number {
  return values.reduceRight((sum, value) => sum + value * value, 0)
}
