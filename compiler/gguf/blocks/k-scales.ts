// The packed six-bit scales and minima of Q4_K and Q5_K: eight of each in twelve bytes.

/**
 * Of sub-block j < 4: the low six bits of bytes j and j + 4. Of j ≥ 4: four bits in byte j + 4, low nibble the scale and
 * high nibble the minimum, and the two upper bits on top of bytes j − 4 and j.
 */
export function unpackScale(bytes: Uint8Array, at: number, j: number): readonly [scale: number, minimum: number] {
  const byte = (i: number) => bytes[at + i] as number
  if (j < 4) return [byte(j) & 63, byte(j + 4) & 63]
  return [(byte(j + 4) & 15) | ((byte(j - 4) >> 6) << 4), (byte(j + 4) >> 4) | ((byte(j) >> 6) << 4)]
}
