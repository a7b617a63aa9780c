// Merged serving: the deltas are added to the weight itself, so that the low-rank path costs nothing at run time.
//
//   W'ᵀ[i, o] = round32( Wᵀ[i, o] + Σₐ wₐ·sₐ·Σₖ Aᵀ[i, k]·Bᵀ[k, o] )
//
// The sum is taken in double over all adapters and rounded once; a merge per adapter would round, and drift, each time.
import { inputError } from '../errors.ts'
import { firstNonFinite } from '../safetensors/decode.ts'

export interface Delta {
  readonly adapter: string
  readonly r: number
  /** w·s: weight of the adapter times its scaling; applied here and nowhere else. */
  readonly scale: number
  /** [in, r] and [r, out]. */
  readonly A: Float32Array
  readonly B: Float32Array
}

/**
 * Adds the deltas in place to rows `start` … of Wᵀ, `rows` being float32 [n, out].
 * Throws `InputError` where a sum leaves the range of fp32.
 */
export function mergeDelta(
  rows: Float32Array,
  start: number,
  out: number,
  deltas: readonly Delta[],
  module: string,
): void {
  if (deltas.length === 0) return
  const sum = new Float64Array(out)
  for (let at = 0; at < rows.length; at += out) {
    const row = rows.subarray(at, at + out)
    sum.set(row)
    for (const delta of deltas) addRow(sum, start + at / out, delta)
    row.set(sum)
  }
  refuseOverflow(rows, deltas, module)
}

/** The same for rows `first` … of W as a checkpoint stores it: `rows` is float32 [n, in]. */
export function mergeRows(
  rows: Float32Array,
  first: number,
  inSize: number,
  outSize: number,
  deltas: readonly Delta[],
  module: string,
): void {
  if (deltas.length === 0) return
  for (let at = 0; at < rows.length; at += inSize) {
    const o = first + at / inSize
    const sum = Float64Array.from(rows.subarray(at, at + inSize))
    for (const { r, scale, A, B } of deltas) {
      for (let k = 0; k < r; k += 1) {
        const b = scale * (B[k * outSize + o] as number)
        for (let i = 0; i < inSize; i += 1) sum[i] = (sum[i] as number) + b * (A[i * r + k] as number)
      }
    }
    rows.set(sum, at)
  }
  refuseOverflow(rows, deltas, module)
}

function refuseOverflow(rows: Float32Array, deltas: readonly Delta[], module: string): void {
  if (firstNonFinite(rows) < 0) return
  const names = deltas.map(({ adapter }) => `"${adapter}"`).join(', ')
  throw inputError('merge-overflow', `merging ${names} into ${module} overflows fp32; lower the weights`)
}

/** sum[o] += scale · Σₖ A[i, k]·B[k, o] */
function addRow(sum: Float64Array, i: number, { r, scale, A, B }: Delta): void {
  const out = sum.length
  for (let k = 0; k < r; k += 1) {
    const a = scale * (A[i * r + k] as number)
    const from = k * out
    for (let o = 0; o < out; o += 1) sum[o] = (sum[o] as number) + a * (B[from + o] as number)
  }
}
