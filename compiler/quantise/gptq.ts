// GPTQ (Frantar et al. 2022, arXiv:2210.17323): weights are rounded column by column, and what a column loses is made up for
// in those that follow, as far as the inputs of the linear on a calibration text say that they can.
//
// With H = Σ x·xᵀ over the inputs x and H⁻¹ = Uᵀ·U, U upper triangular, the loss of column i of a row w is
//   e = (wᵢ − ŵᵢ) / Uᵢᵢ,   and then   wⱼ ← wⱼ − e·Uᵢⱼ for j > i.
// A block's scale is chosen when its first column is reached, from the weights as they are then.
import { assert } from '../errors.ts'
import { fromHalf } from './half.ts'
import { type Blocks, codeOf, createFit, fitBlock } from './nbits.ts'
import type { IntegerSpec } from './spec.ts'

/** Of the mean of H's diagonal, added to it: H of few inputs has no inverse. The paper's. */
const DAMPING = 0.01

/**
 * U, [n, n] by rows, of H [n, n], symmetric, which is overwritten. An input that never differs from 0 constrains nothing.
 * H = R·Rᵀ with R upper triangular is Cholesky's factor from the last column backwards, and U is R's inverse.
 */
export function inverseFactor(H: Float64Array, n: number): Float64Array {
  let trace = 0
  for (let i = 0; i < n; i++) trace += H[i * n + i] as number
  const damping = trace === 0 ? 1 : (DAMPING * trace) / n
  for (let i = 0; i < n; i++) H[i * n + i] = (H[i * n + i] as number) + damping
  for (let j = n - 1; j >= 0; j--) {
    let pivot = H[j * n + j] as number
    for (let k = j + 1; k < n; k++) pivot -= (H[j * n + k] as number) ** 2
    assert(pivot > 0, 'the inputs of a linear have a matrix that is not positive definite')
    const diagonal = Math.sqrt(pivot)
    H[j * n + j] = diagonal
    for (let i = 0; i < j; i++) {
      let sum = H[i * n + j] as number
      for (let k = j + 1; k < n; k++) sum -= (H[i * n + k] as number) * (H[j * n + k] as number)
      H[i * n + j] = sum / diagonal
    }
  }
  return invertUpper(H, n)
}

/** In place, row by row from the last: rows below are inverted already. */
function invertUpper(R: Float64Array, n: number): Float64Array {
  const row = new Float64Array(n)
  for (let i = n - 1; i >= 0; i--) {
    const inverse = 1 / (R[i * n + i] as number)
    row.fill(0, i)
    for (let k = i + 1; k < n; k++) {
      const factor = R[i * n + k] as number
      for (let j = k; j < n; j++) row[j] = (row[j] as number) - factor * (R[k * n + j] as number)
    }
    R[i * n + i] = inverse
    for (let j = i + 1; j < n; j++) R[i * n + j] = (row[j] as number) * inverse
    for (let j = 0; j < i; j++) R[i * n + j] = 0
  }
  return R
}

/** As `quantiseBlocks`, whole rows of n weights, each made up for by U [n, n]. `values` are left as they are. */
export function quantiseCompensated(values: Float32Array, n: number, spec: IntegerSpec, U: Float64Array): Blocks {
  const { bits, block, grid } = spec
  const count = values.length / block
  const codes = new Uint8Array((values.length * bits) / 8)
  const scales = new Uint16Array(count)
  const zeroPoints = new Uint8Array(grid === 'asymmetric' ? count : 0)
  const offsets = new Uint16Array(grid === 'affine' ? count : 0)
  const fit = createFit()
  const row = new Float64Array(n)
  const near = new Float32Array(block)
  let squaredError = 0
  let squaredNorm = 0
  for (let first = 0; first < values.length; first += n) {
    row.set(values.subarray(first, first + n))
    for (let start = 0; start < n; start += block) {
      near.set(row.subarray(start, start + block))
      fitBlock(fit, near, 0, spec)
      const b = (first + start) / block
      const { scale, zero } = fit
      const offset = fromHalf(fit.offset)
      scales[b] = fit.half
      if (grid === 'asymmetric') zeroPoints[b] = zero
      if (grid === 'affine') offsets[b] = fit.offset
      for (let i = start; i < start + block; i++) {
        const code = codeOf(row[i] as number, fit, bits)
        if (bits === 8) codes[first + i] = code
        else codes[(first + i) >> 1] = (codes[(first + i) >> 1] as number) | (code << (4 * (i % 2)))
        const kept = (code - zero) * scale + offset
        const original = values[first + i] as number
        squaredError += (kept - original) ** 2
        squaredNorm += original * original
        const loss = ((row[i] as number) - kept) / (U[i * n + i] as number)
        if (loss === 0) continue
        for (let j = i + 1; j < n; j++) row[j] = (row[j] as number) - loss * (U[i * n + j] as number)
      }
    }
  }
  return { codes, scales, zeroPoints, offsets, squaredError, squaredNorm }
}
