// An arm against the control on one metric: means, their difference, an interval and a p that hold at every look.
// The unit is the subject. Of subject i with nᵢ observations that sum to sᵢ, an arm's mean is R = Σsᵢ/Σnᵢ and, by the delta
// method, its variance V = Σ(sᵢ − R·nᵢ)² / (N−1) / N / n̄²: requests of one subject are not taken for independent.
// With N subjects in both arms, d = R_arm − R_control, v = V_arm + V_control and t = N·ρ²:
//   interval: d ± √v · √( 2·(t+1)/t · log(√(t+1)/α) )      p: min(1, √(t+1) · exp(−t/(t+1) · d²/2v))
//   ρ² = (−2·log α + log(1 − 2·log α)) / N*,   narrowest at N* subjects
// An asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas: Time-uniform central limit theory and
// asymptotic confidence sequences, 2021; eq. 9, 155, 161): valid at all looks at once.

/** Of one arm and one metric: sums over its subjects, all that the formulas need. */
export interface Sums {
  readonly subjects: number
  /** Σsᵢ, Σnᵢ, Σsᵢ², Σsᵢnᵢ, Σnᵢ². */
  readonly s: number
  readonly n: number
  readonly ss: number
  readonly sn: number
  readonly nn: number
}

export interface Comparison {
  readonly difference: number
  /** Null while an arm has fewer than MIN_SUBJECTS: the theory is asymptotic. */
  readonly interval: readonly [low: number, high: number] | null
  readonly p: number | null
}

export const ALPHA = 0.05
/** N*: the interval is narrowest at so many subjects, and valid at any number. As GrowthBook's default. */
export const TUNED_FOR_SUBJECTS = 5_000
/** In each arm. Below it, means of skewed figures are too far from normal. */
export const MIN_SUBJECTS = 50

export const meanOf = ({ s, n }: Sums): number | null => (n === 0 ? null : s / n)

/** Variance of the mean; 0 where every subject is alike. */
export function varianceOfMean({ subjects, s, n, ss, sn, nn }: Sums): number {
  if (subjects < 2 || n === 0) return 0
  const ratio = s / n
  // The residuals sum to 0 by the choice of R, so their squares need no centring.
  const squares = Math.max(0, ss - 2 * ratio * sn + ratio * ratio * nn)
  const perSubject = n / subjects
  return squares / (subjects - 1) / subjects / (perSubject * perSubject)
}

export function compareArms(control: Sums, arm: Sums, alpha = ALPHA): Comparison | null {
  const [from, to] = [meanOf(control), meanOf(arm)]
  if (from === null || to === null) return null
  const difference = to - from
  if (control.subjects < MIN_SUBJECTS || arm.subjects < MIN_SUBJECTS) return { difference, interval: null, p: null }
  const variance = varianceOfMean(control) + varianceOfMean(arm)
  const tuned = -2 * Math.log(alpha) + Math.log(1 - 2 * Math.log(alpha))
  const t = ((control.subjects + arm.subjects) * tuned) / TUNED_FOR_SUBJECTS
  const half = Math.sqrt(variance * 2 * ((t + 1) / t) * Math.log(Math.sqrt(t + 1) / alpha))
  return { difference, interval: [difference - half, difference + half], p: pOf(difference, variance, t) }
}

function pOf(difference: number, variance: number, t: number): number {
  if (variance === 0) return difference === 0 ? 1 : 0
  return Math.min(1, Math.sqrt(t + 1) * Math.exp((-t / (t + 1)) * ((difference * difference) / (2 * variance))))
}
