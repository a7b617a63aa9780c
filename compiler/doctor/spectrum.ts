// The exact singular values and vectors of s·B·A, from its factors alone.
import type { LoraModule } from '../combine/input.ts'
import { smallSvd } from '../combine/small-svd.ts'
import { thinQr } from '../combine/thin-qr.ts'
import type { FloatDtype } from '../safetensors/dtypes.ts'
import { roundingOfProduct, type StoredNorms } from './storage.ts'

export interface StoredModule extends LoraModule {
  /** The types that the factors have in their file. */
  readonly dtypes: { readonly A: FloatDtype; readonly B: FloatDtype }
}

export interface Spectrum {
  /** Descending, min(r, in, out) of them. */
  readonly values: readonly number[]
  /** A value at or below this may be nothing but the rounding of the stored factors. */
  readonly tolerance: number
  /** Unit vector i of length out, or in. */
  left(i: number): Float64Array
  right(i: number): Float64Array
}

/**
 * With B = Q_B·R_B and Aᵀ = Q_A·R_A, thin QR of tall factors, s·B·A = Q_B·(s·R_B·R_Aᵀ)·Q_Aᵀ: the singular values are
 * those of the core, of size r, and the vectors the core's, turned by Q_B and Q_A. In double. Memory is that of the
 * factors, O((in + out)·r); the out × in product is never formed.
 */
export function spectrumOf({ A, B, r, in: columns, out, scaling, dtypes }: StoredModule): Spectrum {
  const ofB = normsBefore(B, dtypes.B)
  const ofA = normsBefore(A, dtypes.A)
  const left = thinQr(columnsOf(B, out, r), out)
  const right = thinQr(rowsOf(A, r, columns), columns)
  const core = new Float64Array(left.k * right.k)
  for (let i = 0; i < left.k; i += 1) {
    for (let j = 0; j < right.k; j += 1) {
      let sum = 0
      // Both are upper triangular.
      for (let k = Math.max(i, j); k < r; k += 1) sum += (left.R[i * r + k] as number) * (right.R[j * r + k] as number)
      core[i * right.k + j] = scaling * sum
    }
  }
  const svd = smallSvd(core, left.k, right.k)
  const B2 = { ...ofB, spectral: largestValue(left.R, left.k, r) }
  const A2 = { ...ofA, spectral: largestValue(right.R, right.k, r) }
  return {
    values: svd.values,
    tolerance: Math.abs(scaling) * roundingOfProduct(B2, A2),
    left: (i) => left.applyQ(svd.left(i)),
    right: (i) => right.applyQ(svd.right(i)),
  }
}

/** ‖Q·R‖₂ = ‖R‖₂. */
function largestValue(R: Float64Array, rows: number, columns: number): number {
  return smallSvd(R.slice(), rows, columns).values[0] ?? 0
}

function normsBefore(values: Float32Array, dtype: FloatDtype): Omit<StoredNorms, 'spectral'> {
  let sum = 0
  for (let i = 0; i < values.length; i += 1) sum += (values[i] as number) * (values[i] as number)
  return { dtype, entries: values.length, frobenius: Math.sqrt(sum) }
}

/** The columns of scale·B, [out, r]; B is read in order, which is much of the time that a spectrum takes. */
export function columnsOf(B: Float32Array, out: number, r: number, scale = 1): Float64Array[] {
  const columns = Array.from({ length: r }, () => new Float64Array(out))
  for (let row = 0; row < out; row += 1) {
    for (let k = 0; k < r; k += 1) (columns[k] as Float64Array)[row] = scale * (B[row * r + k] as number)
  }
  return columns
}

export function rowsOf(A: Float32Array, r: number, columns: number): Float64Array[] {
  return Array.from({ length: r }, (_, row) => Float64Array.from(A.subarray(row * columns, (row + 1) * columns)))
}
