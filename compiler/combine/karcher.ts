// karcher: the mean of the directions of any number of deltas, on the sphere, as a weighted sum of them.
import { inputError } from '../errors.ts'
import { gramOfDeltas } from './gram.ts'
import type { Part } from './input.ts'

const MAX_STEPS = 1000
/** Length of the tangent, in radians, at which the mean stands: ten times what double rounding leaves of its square. */
const STANDS = 1e-7
/** Below this length, or this close to opposite, the directions cancel out and no mean is better than another. */
const CANCELS = 1e-6

/**
 * The Karcher (Fréchet) mean: the unit u that minimises Σ αᵢ·θᵢ², θᵢ the angle to uᵢ = ΔWᵢ/‖ΔWᵢ‖, times the mean length
 * Σ αᵢ·‖ΔWᵢ‖, αᵢ = wᵢ/Σw. By fixed point (Afsari, Tron and Vidal, 2013): the tangent T = Σ αᵢ·(θᵢ/sin θᵢ)·(uᵢ − u·cos θᵢ)
 * is followed along the sphere, u ← u·cos|T| + T/|T|·sin|T|, until it vanishes.
 *
 * Every iterate is in the span of the deltas, so u is its coefficients over the uᵢ and all angles follow from the
 * inner products of the deltas: no out × in matrix. An adapter that lacks the module, or is zero there, has no
 * direction; it only shortens the result. For two adapters the direction is slerp's. Returns the coefficients of
 * Bᵢ·Aᵢ, the scalings included. Throws `InputError` where the directions cancel out.
 */
export function karcherCoefficients(parts: readonly Part[], totalWeight: number, module: string): number[] {
  const n = parts.length
  const gram = gramOfDeltas(parts)
  const lengths = parts.map((_, i) => Math.sqrt(Math.max(0, gram[i * n + i] as number)))
  const directed = lengths.flatMap((length, i) => (length > 0 ? [i] : []))
  const present = directed.reduce((sum, i) => sum + (parts[i] as Part).weight, 0)
  const alphas = directed.map((i) => (parts[i] as Part).weight / present)
  const cosines = directed.map((i) =>
    directed.map((j) => (gram[i * n + j] as number) / ((lengths[i] as number) * (lengths[j] as number))),
  )
  const mean = meanDirection(cosines, alphas, module)
  const length = parts.reduce((sum, { weight }, i) => sum + (weight / totalWeight) * (lengths[i] as number), 0)
  const coefficients = parts.map(() => 0)
  directed.forEach((i, place) => {
    coefficients[i] = ((mean[place] as number) * length * (parts[i] as Part).scaling) / (lengths[i] as number)
  })
  return coefficients
}

/** `cosines`: ⟨uᵢ, uⱼ⟩. Returns the coefficients of the mean over the uᵢ. */
function meanDirection(cosines: readonly (readonly number[])[], alphas: readonly number[], module: string): number[] {
  // ⟨uᵢ, Σ xⱼ·uⱼ⟩ for every i.
  const against = (x: readonly number[]) =>
    cosines.map((row) => row.reduce((sum, cosine, j) => sum + cosine * (x[j] as number), 0))
  const lengthOf = (x: readonly number[]) =>
    Math.sqrt(
      Math.max(
        0,
        against(x).reduce((sum, dot, i) => sum + dot * (x[i] as number), 0),
      ),
    )
  if (alphas.length === 0) return []
  const start = lengthOf(alphas)
  if (start < CANCELS) throw cancelled(module)
  let mean = alphas.map((alpha) => alpha / start)
  for (let step = 0; step < MAX_STEPS; step += 1) {
    const dots = against(mean).map((dot) => Math.min(1, Math.max(-1, dot)))
    if (dots.some((dot) => dot < CANCELS - 1)) throw cancelled(module)
    const pulls = dots.map((dot, i) => (alphas[i] as number) * angleOverSine(dot))
    const inward = pulls.reduce((sum, pull, i) => sum + pull * (dots[i] as number), 0)
    const tangent = pulls.map((pull, i) => pull - inward * (mean[i] as number))
    const size = lengthOf(tangent)
    if (size < STANDS) return mean
    const moved = mean.map((x, i) => x * Math.cos(size) + ((tangent[i] as number) / size) * Math.sin(size))
    const norm = lengthOf(moved)
    mean = moved.map((x) => x / norm)
  }
  throw cancelled(module)
}

/** θ/sin θ for θ = arccos(cos), 1 at 0. */
function angleOverSine(cos: number): number {
  const sine = Math.sqrt(1 - cos * cos)
  return sine < 1e-7 ? 1 : Math.acos(cos) / sine
}

function cancelled(module: string) {
  return inputError(
    'adapter-weight',
    `${module}: the adapters point in opposite directions, so they have no Karcher mean; use exact or svd`,
  )
}
