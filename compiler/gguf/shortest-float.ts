// A float32 as the decimal that was meant: 9.999999747378752e-6 was 1e-5 before it was stored.

const FLOAT32_DIGITS = 9

/** The decimal of fewest digits that rounds to the same float32. */
export function shortestFloat(value: number): number {
  for (let digits = 1; digits <= FLOAT32_DIGITS; digits += 1) {
    const short = Number(value.toPrecision(digits))
    if (Math.fround(short) === Math.fround(value)) return short
  }
  return value
}
