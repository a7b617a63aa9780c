// The leading singular triplets of a dense matrix, without its full SVD.
import { Basis } from './basis.ts'
import { smallSvd } from './small-svd.ts'
import { stream } from './threefry.ts'

export interface Triplets {
  readonly values: readonly number[]
  /** Unit vectors of length `rows`, one a value. */
  readonly left: readonly Float64Array[]
  /** Unit vectors of length `columns`, one a value. */
  readonly right: readonly Float64Array[]
}

/** Columns beyond the wanted rank: the block then holds values that repeat, and converges by the gap below them. */
const EXTRA_COLUMNS = 8
/** Residual, relative to σ₁, at which a triplet is exact to fp32. */
const RESIDUAL = 1e-8
/** A step that gains less than this share of what is still uncaptured ends the search: the rest has no gap to find. */
const STAGNATION = 1e-12

/**
 * The `rank` largest singular triplets of D, row-major [rows, columns], by block Golub–Kahan–Lanczos bidiagonalisation
 * with full reorthogonalisation (Golub, Luk and Overton, 1981), in double.
 *
 * From a block X: V₁ = orth(X); then alternately U⁺ = orth(D·V_last − U·Uᵀ·…) and V⁺ = orth(Dᵀ·U_last − V·Vᵀ·…). With
 * P = Uᵀ·D·V = X̂·Σ·Ŷᵀ small, the triplets are U·X̂, Σ, V·Ŷ. D·V = U·P holds exactly, so the residual of a triplet is
 * ‖Dᵀ·u − σ·v‖ = ‖S·x̂_last‖, where S are the coefficients of Dᵀ·U_last along the next block. Energy captured never
 * falls, and at full dimension the result is the SVD. The start is drawn from a fixed stream: nothing is left to chance.
 * Of D = 0 the one triplet is all zeros.
 */
export function leadingTriplets(D: Float32Array, rows: number, columns: number, rank: number): Triplets {
  const wanted = Math.min(rank, rows, columns)
  const U = new Basis(rows)
  const V = new Basis(columns)
  let energy = 0
  for (let i = 0; i < D.length; i += 1) energy += (D[i] as number) ** 2
  if (energy === 0) return { values: [0], left: [new Float64Array(rows)], right: [new Float64Array(columns)] }
  let block = V.extend(gaussianBlock(columns, Math.min(wanted + EXTRA_COLUMNS, columns))).added
  // P by columns: column j holds the coefficients of D·vⱼ over U.
  const P: Float64Array[] = []
  let captured = 0
  for (;;) {
    const ahead = U.extend(multiply(D, rows, columns, block))
    P.push(...ahead.coefficients)
    const back = V.extend(multiplyTransposed(D, rows, columns, ahead.added))
    const svd = smallSvd(rowMajor(P, U.size), U.size, P.length)
    const values = svd.values.slice(0, wanted)
    const total = values.reduceRight((sum, value) => sum + value * value, 0)
    const firstNew = U.size - ahead.added.length
    const settled = values.every(
      (_, i) => residual(back.coefficients, P.length, svd.left(i), firstNew) <= RESIDUAL * (values[0] as number),
    )
    const stagnant = P.length > 2 * wanted && total - captured <= STAGNATION * Math.max(0, energy - total)
    if (back.added.length === 0 || settled || stagnant) {
      return {
        values,
        left: values.map((_, i) => U.combine(svd.left(i))),
        right: values.map((_, i) => V.combine(svd.right(i))),
      }
    }
    captured = total
    block = back.added
  }
}

/** ‖S·x‖ for the newest part of x; S are the coefficients, along the vectors after `known`, of Dᵀ times the newest u. */
function residual(coefficients: readonly Float64Array[], known: number, x: Float64Array, firstNew: number): number {
  const next = new Float64Array((coefficients.at(-1)?.length ?? known) - known)
  coefficients.forEach((column, place) => {
    for (let i = known; i < column.length; i += 1) {
      next[i - known] = (next[i - known] as number) + (column[i] as number) * (x[firstNew + place] as number)
    }
  })
  return Math.hypot(...next)
}

/** D·x for each x. */
export function multiply(D: Float32Array, rows: number, columns: number, xs: readonly Float64Array[]): Float64Array[] {
  const n = xs.length
  const X = interleave(xs, columns)
  const Y = new Float64Array(rows * n)
  for (let i = 0; i < rows; i += 1) {
    const row = i * columns
    const to = i * n
    for (let j = 0; j < columns; j += 1) {
      const d = D[row + j] as number
      if (d === 0) continue
      const from = j * n
      for (let k = 0; k < n; k += 1) Y[to + k] = (Y[to + k] as number) + d * (X[from + k] as number)
    }
  }
  return separate(Y, rows, n)
}

/** Dᵀ·y for each y. */
export function multiplyTransposed(
  D: Float32Array,
  rows: number,
  columns: number,
  ys: readonly Float64Array[],
): Float64Array[] {
  const n = ys.length
  const Y = interleave(ys, rows)
  const X = new Float64Array(columns * n)
  for (let i = 0; i < rows; i += 1) {
    const row = i * columns
    const from = i * n
    for (let j = 0; j < columns; j += 1) {
      const d = D[row + j] as number
      if (d === 0) continue
      const to = j * n
      for (let k = 0; k < n; k += 1) X[to + k] = (X[to + k] as number) + d * (Y[from + k] as number)
    }
  }
  return separate(X, columns, n)
}

/** Vectors of length m → row-major [m, n]. */
function interleave(vectors: readonly Float64Array[], m: number): Float64Array {
  const n = vectors.length
  const result = new Float64Array(m * n)
  vectors.forEach((vector, k) => {
    for (let i = 0; i < m; i += 1) result[i * n + k] = vector[i] as number
  })
  return result
}

/** Row-major [m, n] → n vectors of length m. */
function separate(values: Float64Array, m: number, n: number): Float64Array[] {
  return Array.from({ length: n }, (_, k) => Float64Array.from({ length: m }, (_, i) => values[i * n + k] as number))
}

/** Columns that may be shorter than `rows`, for want of vectors that came later → row-major, zero-padded. */
function rowMajor(columns: readonly Float64Array[], rows: number): Float64Array {
  const result = new Float64Array(rows * columns.length)
  columns.forEach((column, j) => {
    for (let i = 0; i < column.length; i += 1) result[i * columns.length + j] = column[i] as number
  })
  return result
}

/** `count` vectors of normal numbers, the same each time, by Box and Muller. */
export function gaussianBlock(length: number, count: number): Float64Array[] {
  return Array.from({ length: count }, (_, k) => {
    const numbers = stream(0, `block-lanczos/${k}`)(2 * length)
    return Float64Array.from({ length }, (_, i) => {
      const radius = Math.sqrt(-2 * Math.log(1 - (numbers[2 * i] as number)))
      return radius * Math.cos(2 * Math.PI * (numbers[2 * i + 1] as number))
    })
  })
}
