// log Γ(x) for x > 0: shifted up to where Stirling's series is exact in doubles.
//   log Γ(x) = (x − ½)·log x − x + ½·log 2π + 1/12x − 1/360x³ + 1/1260x⁵ − 1/1680x⁷ + …   (Abramowitz, Stegun 6.1.41)

/** From here the first term that is left out is below 1e-15. */
const STIRLING_FROM = 15
const HALF_LOG_2PI = 0.5 * Math.log(2 * Math.PI)

export function logGamma(x: number): number {
  // Γ(x) = Γ(x + k) / (x·(x+1)·…·(x+k−1)); the product of at most 15 factors below 15 does not overflow.
  let shift = 1
  let at = x
  while (at < STIRLING_FROM) {
    shift *= at
    at += 1
  }
  const inverse = 1 / at
  const square = inverse * inverse
  const series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))))
  return (at - 0.5) * Math.log(at) - at + HALF_LOG_2PI + series - Math.log(shift)
}
