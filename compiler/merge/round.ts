// float32 → the stored type, to nearest with ties to even: the one rounding of a merge, where the kernel does not do it.
import type { FloatDtype } from '../safetensors/dtypes.ts'
import { OVERFLOW_BITS } from './kernel-code.ts'

/** Below this a half is subnormal: 2⁻¹⁴. */
const SMALLEST_NORMAL_HALF = 0x38800000
/** As bits of a float. Added to 0.5, a value below 2⁻¹⁴ keeps the bits that a subnormal half has: its last place is 2⁻²⁴. */
const ONE_HALF = 0x3f000000
/** Moves a float's exponent from bias 127 to 15, and adds just under half of a half's last place. */
const TO_HALF = ((15 - 127) << 23) + 0x0fff

/** The rounded values as bytes, and the index of the first that is not finite after rounding, or -1. */
export function roundFloats(
  values: Float32Array<ArrayBuffer>,
  dtype: FloatDtype,
): { readonly bytes: Uint8Array<ArrayBuffer>; readonly firstBad: number } {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  const limit = OVERFLOW_BITS[dtype]
  const firstBad = bits.findIndex((word) => (word & 0x7fffffff) >= limit)
  if (dtype === 'F32') {
    return { bytes: new Uint8Array(values.buffer, values.byteOffset, values.byteLength), firstBad }
  }
  const halves = new Uint16Array(values.length)
  if (dtype === 'BF16') {
    for (let i = 0; i < bits.length; i += 1) {
      const word = bits[i] as number
      halves[i] = (word + 0x7fff + ((word >>> 16) & 1)) >>> 16
    }
  } else {
    for (let i = 0; i < bits.length; i += 1) halves[i] = toHalf(bits[i] as number)
  }
  return { bytes: new Uint8Array(halves.buffer), firstBad }
}

const float = new Float32Array(1)
const word = new Uint32Array(float.buffer)

function toHalf(bits: number): number {
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude >= SMALLEST_NORMAL_HALF) return sign | ((magnitude + TO_HALF + ((magnitude >>> 13) & 1)) >>> 13)
  word[0] = magnitude
  float[0] = (float[0] as number) + 0.5
  return sign | ((word[0] as number) - ONE_HALF)
}
