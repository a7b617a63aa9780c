// Stored floats → float32, exactly: every F16 and BF16 value is a float32 value. Little-endian machines only.
import type { FloatDtype } from './dtypes.ts'

/** Bytes of one element. */
export const ELEMENT_BYTES: Readonly<Record<FloatDtype, number>> = { F32: 4, F16: 2, BF16: 2 }

/** `bytes` holds whole elements. F32 is viewed in place where its alignment allows. */
export function decodeFloats(bytes: Uint8Array<ArrayBuffer>, dtype: FloatDtype): Float32Array<ArrayBuffer> {
  // The constructor, not slice(): that of a Node Buffer would give another view of the same unaligned bytes.
  const aligned = bytes.byteOffset % ELEMENT_BYTES[dtype] === 0 ? bytes : new Uint8Array(bytes)
  const count = aligned.byteLength / ELEMENT_BYTES[dtype]
  if (dtype === 'F32') return new Float32Array(aligned.buffer, aligned.byteOffset, count)
  const halves = new Uint16Array(aligned.buffer, aligned.byteOffset, count)
  const floats = new Float32Array(count)
  if (dtype === 'BF16') {
    // A bfloat16 is the upper half of a float32.
    const words = new Uint32Array(floats.buffer)
    for (let i = 0; i < count; i += 1) words[i] = (halves[i] as number) << 16
  } else {
    const table = halfTable()
    for (let i = 0; i < count; i += 1) floats[i] = table[halves[i] as number] as number
  }
  return floats
}

/** Index of the first NaN or infinity, or -1. */
export function firstNonFinite(values: Float32Array): number {
  // x·0 is 0 exactly for finite x, NaN otherwise, and a sum keeps NaN. Four sums: each addition waits for the last of its own.
  let [a, b, c, d] = [0, 0, 0, 0]
  const whole = values.length - (values.length % 4)
  for (let i = 0; i < whole; i += 4) {
    a += (values[i] as number) * 0
    b += (values[i + 1] as number) * 0
    c += (values[i + 2] as number) * 0
    d += (values[i + 3] as number) * 0
  }
  for (let i = a + b + c + d === 0 ? whole : 0; i < values.length; i += 1) {
    if (!Number.isFinite(values[i])) return i
  }
  return -1
}

let table: Float32Array | undefined

/** All 65,536 halves: a look-up is several times faster than rebuilding each exponent. */
export function halfTable(): Float32Array {
  if (table !== undefined) return table
  const floats = new Float32Array(0x10000)
  for (let bits = 0; bits < 0x10000; bits += 1) {
    const sign = bits & 0x8000 ? -1 : 1
    const exponent = (bits >> 10) & 0x1f
    const fraction = bits & 0x3ff
    if (exponent === 0x1f) floats[bits] = fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
    else if (exponent === 0) floats[bits] = sign * fraction * 2 ** -24
    else floats[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
  }
  table = floats
  return floats
}
