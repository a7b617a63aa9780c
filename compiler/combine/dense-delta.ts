// The dense delta of one adapter in one module, for the methods that by definition look at its entries.
import { inputError } from '../errors.ts'
import type { Part } from './input.ts'

/** 1 GiB as fp32, and every adapter takes as much: beyond any linear of a layer, below a large vocabulary's head. */
export const MAX_DELTA_ELEMENTS = 2 ** 28

/** s·B·A, row-major [out, in], summed in double, rounded once. Throws `InputError` where it would be too large. */
export function denseDelta({ A, B, r, in: columns, out, scaling }: Part, module: string): Float32Array {
  if (out * columns > MAX_DELTA_ELEMENTS) {
    throw inputError(
      'tensor-shape',
      `${module}: a delta of ${out} × ${columns} has more than ${MAX_DELTA_ELEMENTS} entries; use a method that ` +
        'works on the factors, such as svd',
    )
  }
  const delta = new Float32Array(out * columns)
  const row = new Float64Array(columns)
  for (let i = 0; i < out; i += 1) {
    row.fill(0)
    for (let k = 0; k < r; k += 1) {
      const b = scaling * (B[i * r + k] as number)
      const start = k * columns
      for (let j = 0; j < columns; j += 1) row[j] = (row[j] as number) + b * (A[start + j] as number)
    }
    delta.set(row, i * columns)
  }
  return delta
}
