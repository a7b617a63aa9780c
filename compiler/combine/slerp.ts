// slerp: the spherical path between two deltas (Shoemake, 1985), as a weighted sum of them.
import { gramOfDeltas } from './gram.ts'
import type { Part } from './input.ts'

/** |cos Ω| from which sin Ω is too small to divide by, and a straight line is as good; as in mergekit. */
const COLINEAR = 0.9995

/**
 * c₀·ΔW₀ + c₁·ΔW₁ with cᵢ from the angle Ω between the two: c₀ = sin((1 − t)Ω)/sin Ω, c₁ = sin(tΩ)/sin Ω, and
 * t = w₁/(w₀ + w₁). Ω needs inner products only, so the result is exact in the factors, of rank r₀ + r₁.
 * Where they are (anti)parallel it is the line (1 − t)·ΔW₀ + t·ΔW₁; likewise where an adapter lacks the module or is
 * zero there, since a zero has no direction. The coefficients include the scalings.
 *
 * `totalWeight`: of both adapters, those that lack the module included.
 */
export function slerpCoefficients(parts: readonly Part[], totalWeight: number): number[] {
  const line = parts.map(({ weight, scaling }) => (weight / totalWeight) * scaling)
  const [first, second] = parts
  if (first === undefined || second === undefined) return line
  const [p = 0, pq = 0, , q = 0] = gramOfDeltas(parts)
  if (p === 0 || q === 0) return line
  const cos = pq / Math.sqrt(p * q)
  if (Math.abs(cos) > COLINEAR) return line
  const angle = Math.acos(cos)
  return parts.map(({ weight, scaling }) => (Math.sin((weight / totalWeight) * angle) / Math.sin(angle)) * scaling)
}
