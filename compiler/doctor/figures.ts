// The figures of one spectrum: how many directions a change has, and how its energy is spread over them.

export interface Figures {
  /** Singular values above the rounding of the stored factors. */
  readonly rank: number
  /** ‖ΔW‖_F */
  readonly norm: number
  /** Σσ² / σ₁²: 1 for one direction, r for r equal ones. 0 for a change of nothing. */
  readonly stableRank: number
  /** exp(−Σ pᵢ·ln pᵢ) with pᵢ = σᵢ / Σσ (Roy and Vetterli, "The effective rank", 2007). */
  readonly effectiveRank: number
  /** Share of Σσ² in the first k values, k = 1 …; the last is 1. */
  readonly energyAt: readonly number[]
  /** The smallest k with at least this share. */
  readonly k90: number
  readonly k99: number
  /** r·σ_r² / Σσ², 0 to 1: see `saturation.ts`. */
  readonly tail: number
}

/** `values` descend; `r` is the rank that was trained, of which `values` may be fewer. */
export function figuresOf(values: readonly number[], tolerance: number, r: number): Figures {
  const rank = values.filter((value) => value > tolerance).length
  // Smallest first, so that the small ones are not lost.
  const energy = values.reduceRight((sum, value) => sum + value * value, 0)
  if (energy === 0 || rank === 0) {
    const none = values.map(() => 1)
    return { rank: 0, norm: 0, stableRank: 0, effectiveRank: 0, energyAt: none, k90: 0, k99: 0, tail: 0 }
  }
  const first = values[0] as number
  const total = values.reduce((sum, value) => sum + value, 0)
  const entropy = values.reduce((sum, value) => (value > 0 ? sum - (value / total) * Math.log(value / total) : sum), 0)
  let lost = energy
  const energyAt = values.map((value) => {
    lost -= value * value
    return 1 - Math.max(0, lost) / energy
  })
  energyAt[energyAt.length - 1] = 1
  const smallest = (share: number) => energyAt.findIndex((kept) => kept >= share) + 1
  const last = values.length < r ? 0 : (values.at(-1) as number)
  return {
    rank,
    norm: Math.sqrt(energy),
    stableRank: energy / (first * first),
    effectiveRank: Math.exp(entropy),
    energyAt,
    k90: smallest(0.9),
    k99: smallest(0.99),
    tail: rank < r ? 0 : (r * last * last) / energy,
  }
}
