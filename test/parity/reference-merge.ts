// The formulas of compiler/adapter/change.ts in double, one tensor at a time, rounded once: what a merge must give.
import type { Change } from '../../compiler/adapter/change.ts'
import type { FloatDtype } from '../../compiler/safetensors/dtypes.ts'
import { type FloatTensorSource, readFloats } from '../../compiler/safetensors/stream.ts'

/** `changes`: those of one tensor, in the order of the reader. `width`: the last size of the tensor. */
export async function mergeReference(
  values: Float64Array,
  width: number,
  changes: readonly Change[],
): Promise<Float64Array> {
  let merged = values
  for (const change of changes) {
    if (change.kind === 'replace') merged = Float64Array.from(await readFloats(change.value as FloatTensorSource))
    else if (change.kind === 'add') merged = merged.map((value, i) => value + change.scaling * change.value[i]!)
    else if (change.kind === 'low-rank') merged = addLowRank(merged, change)
    else {
      change.rows.forEach((row, index) => {
        merged.set(change.value.subarray(index * width, (index + 1) * width), row * width)
      })
    }
  }
  return merged
}

function addLowRank(values: Float64Array, change: Change & { kind: 'low-rank' }): Float64Array {
  const { A, B, r, in: inSize, out, scaling, transposed, magnitude } = change
  const merged = values.slice()
  const at = (o: number, i: number) => (transposed ? i * out + o : o * inSize + i)
  for (let o = 0; o < out; o += 1) {
    let square = 0
    for (let i = 0; i < inSize; i += 1) {
      let delta = 0
      for (let k = 0; k < r; k += 1) delta += B[o * r + k]! * A[k * inSize + i]!
      merged[at(o, i)]! += scaling * delta
      square += merged[at(o, i)]! ** 2
    }
    if (magnitude === undefined) continue
    for (let i = 0; i < inSize; i += 1) merged[at(o, i)]! *= magnitude[o]! / Math.sqrt(square)
  }
  return merged
}

/** Bits of the significand that are stored, and the exponent of the smallest normal number. */
const FORMATS: Readonly<Record<FloatDtype, { bits: number; lowest: number }>> = {
  F32: { bits: 23, lowest: -126 },
  F16: { bits: 10, lowest: -14 },
  BF16: { bits: 7, lowest: -126 },
}

/** Distance of `value` to its neighbour in the type. */
export function unitAt(value: number, dtype: FloatDtype): number {
  const { bits, lowest } = FORMATS[dtype]
  const exponent = value === 0 ? lowest : Math.max(lowest, Math.floor(Math.log2(Math.abs(value))))
  return 2 ** (exponent - bits)
}

/** To the nearest of the type, ties to even. */
export function roundTo(value: number, dtype: FloatDtype): number {
  const unit = unitAt(value, dtype)
  const [below, rest] = [Math.floor(value / unit), value / unit - Math.floor(value / unit)]
  const up = rest > 0.5 || (rest === 0.5 && below % 2 !== 0)
  return (below + (up ? 1 : 0)) * unit
}
