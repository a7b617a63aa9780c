// The SVD of a small dense matrix, by ml-matrix (Golub–Kahan, after EISPACK and JAMA).
import { Matrix, SingularValueDecomposition } from 'ml-matrix'

export interface Svd {
  /** Descending; as many as the smaller side. */
  readonly values: readonly number[]
  /** Column i of U, length `rows`. */
  left(i: number): Float64Array
  /** Column i of V, length `columns`. */
  right(i: number): Float64Array
}

/** `values`: row-major [rows, columns], finite: on NaN the iteration would not end. */
export function smallSvd(values: Float64Array, rows: number, columns: number): Svd {
  const svd = new SingularValueDecomposition(Matrix.from1DArray(rows, columns, values), { autoTranspose: true })
  const { leftSingularVectors: U, rightSingularVectors: V } = svd
  return {
    values: svd.diagonal.slice(0, Math.min(rows, columns)),
    left: (i) => Float64Array.from(U.getColumn(i)),
    right: (i) => Float64Array.from(V.getColumn(i)),
  }
}
