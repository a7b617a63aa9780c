// The leading singular triplets of a weight matrix with a low-rank change beside it, by randomised block Krylov.
import { Basis } from '../combine/basis.ts'
import { gaussianBlock, multiply, multiplyTransposed, type Triplets } from '../combine/block-lanczos.ts'
import type { LoraModule } from '../combine/input.ts'
import { smallSvd } from '../combine/small-svd.ts'

/** Columns beyond the wanted: values that repeat, or nearly, then share a block. */
const OVERSAMPLING = 8
/** The basis has at most this many blocks: memory is (in + out)·blocks·(rank + 8) doubles, whatever the matrix. */
const MAX_BLOCKS = 12
/** The small SVD costs the cube of the basis, so it is not done after every block. */
const BLOCKS_PER_CHECK = 3
/** ‖Wᵀ·u − σ·v‖ ≤ this · σ₁ for every wanted triplet: then nothing is left to search. */
const RESIDUAL = 1e-7

export interface LeadingTriplets extends Triplets {
  /** Largest ‖Wᵀ·u − σ·v‖ / σ₁ of a wanted triplet: how exact they are. */
  readonly residual: number
}

/** W0, row-major [rows, columns], and perhaps what is added to it, kept apart. */
export interface ChangedMatrix {
  readonly W: Float32Array
  readonly rows: number
  readonly columns: number
  readonly change?: LoraModule
}

/**
 * The basis of block Krylov (Musco and Musco, 2015) from a Gaussian block Ω of a fixed stream: V = orth[Ω, WᵀWΩ,
 * (WᵀW)²Ω, …], U = orth(W·V). W·V = U·P holds exactly, so with P = X·Σ·Yᵀ the triplets are U·X, Σ, V·Y. When the basis
 * has as many vectors as W has columns or rows, that is the SVD of W; before, the residual says how near it is.
 * W·x = W0·x + s·B·(A·x): the change is never multiplied out.
 */
export function krylovTriplets(matrix: ChangedMatrix, rank: number): LeadingTriplets {
  const { rows, columns } = matrix
  const wanted = Math.min(rank, rows, columns)
  const width = Math.min(wanted + OVERSAMPLING, rows, columns)
  const U = new Basis(rows)
  const V = new Basis(columns)
  const P: Float64Array[] = []
  let block = V.extend(gaussianBlock(columns, width)).added
  for (let blocks = 1; ; blocks += 1) {
    const ahead = U.extend(times(matrix, block))
    P.push(...ahead.coefficients)
    const known = V.size
    const back = V.extend(timesTransposed(matrix, ahead.added))
    const isLast = back.added.length === 0 || blocks === MAX_BLOCKS
    if (isLast || blocks % BLOCKS_PER_CHECK === 0) {
      const svd = smallSvd(rowMajor(P, U.size), U.size, P.length)
      const firstNew = U.size - ahead.added.length
      const residuals = Array.from({ length: wanted }, (_, i) =>
        residualOf(back.coefficients, known, svd.left(i), firstNew),
      )
      const largest = svd.values[0] ?? 0
      const residual = largest === 0 ? 0 : Math.max(...residuals) / largest
      if (isLast || residual <= RESIDUAL) {
        return {
          values: svd.values.slice(0, wanted),
          left: residuals.map((_, i) => U.combine(svd.left(i))),
          right: residuals.map((_, i) => V.combine(svd.right(i))),
          residual,
        }
      }
    }
    block = back.added
  }
}

/** ‖S·x‖ over the newest part of x; S are the coefficients, along the vectors after `known`, of Wᵀ times the newest u. */
function residualOf(coefficients: readonly Float64Array[], known: number, x: Float64Array, firstNew: number): number {
  const next = new Float64Array(Math.max(0, (coefficients.at(-1)?.length ?? known) - known))
  coefficients.forEach((column, place) => {
    for (let i = known; i < column.length; i += 1) {
      next[i - known] = (next[i - known] as number) + (column[i] as number) * (x[firstNew + place] as number)
    }
  })
  return Math.hypot(...next)
}

function times({ W, rows, columns, change }: ChangedMatrix, xs: readonly Float64Array[]): Float64Array[] {
  const ys = multiply(W, rows, columns, xs)
  if (change === undefined) return ys
  const inner = multiply(change.A, change.r, columns, xs)
  add(ys, multiply(change.B, rows, change.r, inner), change.scaling)
  return ys
}

function timesTransposed({ W, rows, columns, change }: ChangedMatrix, ys: readonly Float64Array[]): Float64Array[] {
  const xs = multiplyTransposed(W, rows, columns, ys)
  if (change === undefined) return xs
  const inner = multiplyTransposed(change.B, rows, change.r, ys)
  add(xs, multiplyTransposed(change.A, change.r, columns, inner), change.scaling)
  return xs
}

function add(to: readonly Float64Array[], from: readonly Float64Array[], factor: number): void {
  for (const [place, target] of to.entries()) {
    const source = from[place] as Float64Array
    for (let i = 0; i < target.length; i += 1) target[i] = (target[i] as number) + factor * (source[i] as number)
  }
}

/** Columns that may be shorter than `rows`, for want of vectors that came later → row-major, zero-padded. */
function rowMajor(columns: readonly Float64Array[], rows: number): Float64Array {
  const result = new Float64Array(rows * columns.length)
  columns.forEach((column, j) => {
    for (let i = 0; i < column.length; i += 1) result[i * columns.length + j] = column[i] as number
  })
  return result
}
