// Block-wise integers as com.microsoft::MatMulNBits reads them: w ≈ (q − z)·s for each `block` weights of a row.
//
//   symmetric:   z = 2^(b−1), s = m / −2^(b−1), m the entry of largest magnitude, so that m itself is exact
//   asymmetric:  s = (hi − lo) / (2^b − 1), z = round(−lo / s), with 0 between lo and hi, so that 0 is exact
//   affine:      w ≈ (q − 2^(b−1))·s + c, s = (hi − lo) / (2^b − 1), c = lo + 2^(b−1)·s: any offset, as GGUF's Q4_1 has
//
// The operator has no kernel for zero points that are not integers, so the graph adds c by itself: Σ_i c·x_i over a block is
// c times the sum of the block's x (graph/linear.ts). A block of Q4_1 comes back as it was, but for c's rounding to half.
//
// `rtn` is that. `search` tries scales around s (and zero points around z) and keeps those with the smallest squared
// error: a block's outlier clipped a little leaves a finer grid to all the others. Scales are rounded to half first, and
// the codes are chosen for the rounded ones.
import { fromHalf, toHalf } from './half.ts'
import type { IntegerSpec } from './spec.ts'

/** Factors on the scale. Beyond these bounds no block of a real model gained anything. */
export const SEARCH = [1, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.78, 0.74, 1.03, 1.07] as const
export const SHIFTS = [0, -1, 1] as const
const NONE = [1] as const
const STAY = [0] as const

export interface Blocks {
  /** Low bits first: [rows, blocks, block·bits / 8]. */
  readonly codes: Uint8Array<ArrayBuffer>
  /** Halves, [rows, blocks]. */
  readonly scales: Uint16Array<ArrayBuffer>
  /** One a block, not yet packed; empty unless asymmetric. */
  readonly zeroPoints: Uint8Array<ArrayBuffer>
  /** c, halves, [rows, blocks]; empty unless affine. */
  readonly offsets: Uint16Array<ArrayBuffer>
  /** Σ (ŵ − w)² and Σ w² */
  readonly squaredError: number
  readonly squaredNorm: number
}

/** `values`: whole rows of whole blocks, finite. A scale beyond half's range comes back as infinity. */
export function quantiseBlocks(values: Float32Array, spec: IntegerSpec): Blocks {
  const { bits, block, grid } = spec
  const count = values.length / block
  const codes = new Uint8Array((values.length * bits) / 8)
  const scales = new Uint16Array(count)
  const zeroPoints = new Uint8Array(grid === 'asymmetric' ? count : 0)
  const offsets = new Uint16Array(grid === 'affine' ? count : 0)
  const top = 2 ** bits - 1
  const fit = createFit()
  let squaredError = 0
  let squaredNorm = 0
  for (let b = 0; b < count; b += 1) {
    const from = b * block
    squaredNorm += fitBlock(fit, values, from, spec)
    const { scale, zero } = fit
    const offset = fromHalf(fit.offset)
    squaredError += fit.error
    scales[b] = fit.half
    if (grid === 'asymmetric') zeroPoints[b] = zero
    if (grid === 'affine') offsets[b] = fit.offset
    const inverse = scale === 0 ? 0 : 1 / scale
    const shift = zero + 0.5 - offset * inverse
    if (bits === 8)
      for (let i = from; i < from + block; i += 1) codes[i] = code(values[i] as number, inverse, shift, top)
    else {
      for (let i = from; i < from + block; i += 2) {
        const low = code(values[i] as number, inverse, shift, top)
        codes[i >> 1] = low | (code(values[i + 1] as number, inverse, shift, top) << 4)
      }
    }
  }
  return { codes, scales, zeroPoints, offsets, squaredError, squaredNorm }
}

/** Scale, zero point and offset of the block at `from`; its Σ w². */
export function fitBlock(fit: Fit, values: Float32Array, from: number, spec: IntegerSpec): number {
  const { block, grid } = spec
  let squaredNorm = 0
  let lo = values[from] as number
  let hi = lo
  for (let i = from; i < from + block; i += 1) {
    const value = values[i] as number
    if (value < lo) lo = value
    if (value > hi) hi = value
    squaredNorm += value * value
  }
  const choose = grid === 'symmetric' ? chooseSymmetric : grid === 'asymmetric' ? chooseAsymmetric : chooseAffine
  fit.error = Number.POSITIVE_INFINITY
  choose(fit, values, from, lo, hi, spec)
  return squaredNorm
}

export const createFit = (): Fit => ({ half: 0, scale: 0, zero: 0, offset: 0, error: 0 })

/** The code of one weight of a block that was fitted. */
export function codeOf(value: number, { scale, zero, offset }: Fit, bits: number): number {
  const inverse = scale === 0 ? 0 : 1 / scale
  return code(value, inverse, zero + 0.5 - fromHalf(offset) * inverse, 2 ** bits - 1)
}

/** The best so far. One object, written in place: one a block would be most of the work. */
export interface Fit {
  half: number
  scale: number
  zero: number
  /** A half. */
  offset: number
  error: number
}

type Choose = (fit: Fit, values: Float32Array, from: number, lo: number, hi: number, spec: IntegerSpec) => void

const chooseSymmetric: Choose = (fit, values, from, lo, hi, { bits, block, search }) => {
  const middle = 2 ** (bits - 1)
  const whole = (hi > -lo ? hi : lo) / -middle
  for (const factor of search ? SEARCH : NONE) consider(fit, values, from, block, bits, whole * factor, middle, 0)
}

const chooseAsymmetric: Choose = (fit, values, from, low, high, { bits, block, search }) => {
  const lo = Math.min(0, low)
  const hi = Math.max(0, high)
  const top = 2 ** bits - 1
  for (const factor of search ? SEARCH : NONE) {
    const size = ((hi - lo) / top) * factor
    const zero = size === 0 ? 0 : Math.min(top, Math.max(0, Math.round(-lo / size)))
    for (const shift of search ? SHIFTS : STAY) {
      const shifted = zero + shift
      if (shifted >= 0 && shifted <= top) consider(fit, values, from, block, bits, size, shifted, 0)
    }
  }
}

const chooseAffine: Choose = (fit, values, from, lo, hi, { bits, block, search }) => {
  const top = 2 ** bits - 1
  const middle = 2 ** (bits - 1)
  for (const factor of search ? SEARCH : NONE) {
    const size = fromHalf(toHalf(((hi - lo) / top) * factor))
    // A narrower grid gives up the same at either end.
    const least = lo + ((hi - lo) * (1 - factor)) / 2
    consider(fit, values, from, block, bits, size, middle, toHalf(least + middle * size))
  }
}

function consider(
  fit: Fit,
  values: Float32Array,
  from: number,
  block: number,
  bits: number,
  size: number,
  zero: number,
  offset: number,
): void {
  const half = toHalf(size)
  const scale = fromHalf(half)
  const inverse = scale === 0 ? 0 : 1 / scale
  const c = fromHalf(offset)
  const shift = zero + 0.5 - c * inverse
  const top = 2 ** bits - 1
  // Even and odd ones apart, as the lanes sum them (lanes/integer-kernels.ts): a search must choose the same there.
  let even = 0
  let odd = 0
  for (let i = from; i < from + block; i += 2) {
    const [first, second] = [values[i] as number, values[i + 1] as number]
    const differenceOfFirst = (code(first, inverse, shift, top) - zero) * scale + c - first
    const differenceOfSecond = (code(second, inverse, shift, top) - zero) * scale + c - second
    even += differenceOfFirst * differenceOfFirst
    odd += differenceOfSecond * differenceOfSecond
  }
  const error = even + odd
  if (error < fit.error || fit.error === Number.POSITIVE_INFINITY) {
    fit.half = half
    fit.scale = scale
    fit.zero = zero
    fit.offset = offset
    fit.error = error
  }
}

/** Half up: one instruction where half to even is several, and no better for weights. */
function code(value: number, inverse: number, shift: number, top: number): number {
  // Within 0 … top after the clamp, where `| 0` is floor.
  const shifted = value * inverse + shift
  return shifted <= 0 ? 0 : shifted >= top ? top : shifted | 0
}

/** As MatMulNBits reads them: `bits` each, low ones first, every row in whole bytes. */
export function packZeroPoints(zeroPoints: Uint8Array, perRow: number, bits: 4 | 8): Uint8Array<ArrayBuffer> {
  if (bits === 8) return new Uint8Array(zeroPoints)
  const rows = zeroPoints.length / perRow
  const bytes = Math.ceil(perRow / 2)
  const packed = new Uint8Array(rows * bytes)
  for (let row = 0; row < rows; row += 1) {
    for (let b = 0; b < perRow; b += 1) {
      const at = row * bytes + (b >> 1)
      packed[at] = (packed[at] as number) | ((zeroPoints[row * perRow + b] as number) << (4 * (b & 1)))
    }
  }
  return packed
}
