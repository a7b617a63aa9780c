// exact, cat, and linear where it follows the algebra: the weighted sum of the deltas, without any loss.
import type { Factors } from './combined.ts'
import type { Part } from './input.ts'

/** wᵢ·sᵢ, the share of each part in a weighted sum of deltas. */
export function shares(parts: readonly Part[]): number[] {
  return parts.map(({ weight, scaling }) => weight * scaling)
}

/**
 * Σᵢ cᵢ·Bᵢ·Aᵢ = [B₁ … Bₙ]·[c₁A₁; …; cₙAₙ]: the factors side by side, of rank Σ rᵢ.
 *
 * `coefficients`: cᵢ, one a part. A' is [Σ r, in], B' is [out, Σ r]. Each cᵢ·Aᵢ is exact to double, rounded once.
 * It is `combination_type="cat"` of PEFT, which puts the coefficient into A as well.
 */
export function concatenate(parts: readonly [Part, ...Part[]], coefficients: readonly number[]): Factors {
  const { in: columns, out } = parts[0]
  const r = parts.reduce((sum, part) => sum + part.r, 0)
  const A = new Float32Array(r * columns)
  const B = new Float32Array(out * r)
  let start = 0
  parts.forEach((part, place) => {
    const coefficient = coefficients[place] as number
    const offset = start * columns
    for (let i = 0; i < part.A.length; i += 1) A[offset + i] = coefficient * (part.A[i] as number)
    for (let row = 0; row < out; row += 1) {
      B.set(part.B.subarray(row * part.r, (row + 1) * part.r), row * r + start)
    }
    start += part.r
  })
  return { A, B, r, in: columns, out }
}
