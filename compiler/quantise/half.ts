// float32 → IEEE half, rounded to nearest even: what scales, embeddings and fp16 weights are stored as.

const word = new Float32Array(1)
const bitsOf = new Uint32Array(word.buffer)

/** Overflows to infinity; the caller checks, for only it knows the tensor's name. */
export function toHalf(value: number): number {
  word[0] = value
  const bits = bitsOf[0] as number
  const sign = (bits >>> 16) & 0x8000
  const exponent = (bits >>> 23) & 0xff
  const fraction = bits & 0x7fffff
  if (exponent === 0xff) return sign | 0x7c00 | (fraction === 0 ? 0 : 0x200)
  const shifted = exponent - 112
  if (shifted >= 0x1f) return sign | 0x7c00
  if (shifted > 0) {
    const half = (shifted << 10) | (fraction >> 13)
    const rest = fraction & 0x1fff
    // A carry out of the fraction is the next exponent, and out of the last one infinity: as rounding demands.
    return sign | (half + (rest > 0x1000 || (rest === 0x1000 && (half & 1) === 1) ? 1 : 0))
  }
  if (shifted < -10) return sign
  const full = fraction | 0x800000
  const by = 14 - shifted
  const half = full >> by
  const rest = full & ((1 << by) - 1)
  const middle = 1 << (by - 1)
  return sign | (half + (rest > middle || (rest === middle && (half & 1) === 1) ? 1 : 0))
}

export function toHalves(values: Float32Array): Uint16Array<ArrayBuffer> {
  const halves = new Uint16Array(values.length)
  for (let i = 0; i < values.length; i += 1) halves[i] = toHalf(values[i] as number)
  return halves
}

/** The float32 of a finite half. */
export function fromHalf(half: number): number {
  const exponent = (half >> 10) & 0x1f
  const fraction = half & 0x3ff
  const size = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15)
  return half & 0x8000 ? -size : size
}
