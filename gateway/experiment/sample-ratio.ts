// Sequential sample-ratio mismatch: do the arms get the shares of subjects that their weights promise? May be asked daily.
//   H0: counts are multinomial with the shares w. Evidence against it is a mean of two martingales that start at 1 under H0:
//     BF  H1's shares are drawn from Dirichlet(c·w):  Γ(c)/Γ(c+n) · Π Γ(c·wᵢ+xᵢ)/Γ(c·wᵢ) · Π wᵢ^-xᵢ
//         (Lindon, Malek: Anytime-valid inference for multinomial count data, 2022)
//     D   the chance, as things stand after n subjects, that the N-th leaves arm i at lowᵢ or less or at highᵢ or more, over
//         what that chance was at the start:  P(xᵢ + Bin(N−n, wᵢ) ∉ (lowᵢ, highᵢ)) / P(Bin(N, wᵢ) ∉ (lowᵢ, highᵢ)),
//         its mean over the arms; after N it stays what it was
//   E = s·D + (1−s)·BF;  p = min over the looks of 1/E. P(E ever ≥ 1/α) ≤ α, however often one looks (Ville).
// D is the ordinary test of N subjects, turned into something that may be watched: no test finds more of the mismatches that
// take all of N to be seen. BF sees large ones early, and goes on after N.
import { binomialAtLeast, binomialAtMost } from './binomial-tail.ts'
import { logGamma } from './log-gamma.ts'

/**
 * How tightly H1's shares lie around the promised ones: a larger value sees smaller mismatches, later. Of those tried in
 * bench/experiments.ts, this one finds 52 to 48 soonest; the usual 10,000 takes nearly twice as many subjects.
 */
export const CONCENTRATION = 500
/** Over the whole life of an experiment: at most one in twenty is alarmed without cause. */
export const MISMATCH_ALPHA = 0.05
/** N: where a mismatch of 52 to 48, the smallest that skews results much, has become visible. */
export const DECISIVE_SUBJECTS = 5_000
/** s. More finds 52 to 48 oftener by N, and everything else later; bench/experiments.ts has the figures. */
const DECISIVE_SHARE = 0.8
/** D alone is an alarm once it is as sure as this of how the N-th subject will leave things. */
const SURE = 0.95

export interface SampleRatio {
  /** Valid at every look. */
  readonly p: number
  readonly mismatch: boolean
}

/** log BF of counts against shares that sum to 1, each above 0. */
export function logBayesFactor(
  counts: readonly number[],
  shares: readonly number[],
  concentration = CONCENTRATION,
): number {
  const n = totalOf(counts)
  return counts.reduce(
    (sum, count, at) => {
      const share = shares[at] ?? 0
      const alpha = concentration * share
      return sum + logGamma(alpha + count) - logGamma(alpha) - count * Math.log(share)
    },
    logGamma(concentration) - logGamma(concentration + n),
  )
}

interface Bounds {
  readonly share: number
  readonly low: number
  readonly high: number
  /** Of ending outside, under H0. */
  readonly chance: number
}

const bounds = new Map<number, Bounds>()
/** Shares come from weights of at most 10,000 buckets. */
const MAX_BOUNDS = 10_000

/** The widest region outside of `low` and `high` whose chance is at most what alarms when D is sure; the halves alike. */
function boundsOf(share: number): Bounds {
  const known = bounds.get(share)
  if (known !== undefined) return known
  const n = DECISIVE_SUBJECTS
  const half = (DECISIVE_SHARE * MISMATCH_ALPHA * SURE) / 2
  const high = firstWhere(0, n + 1, (k) => binomialAtLeast(k, n, share) <= half)
  const low = firstWhere(0, n + 1, (k) => binomialAtMost(k, n, share) > half) - 1
  const found = { share, low, high, chance: outside(0, n, { share, low, high }) }
  if (bounds.size >= MAX_BOUNDS) bounds.clear()
  bounds.set(share, found)
  return found
}

const outside = (count: number, left: number, { share, low, high }: Omit<Bounds, 'chance'>): number =>
  binomialAtLeast(high - count, left, share) + binomialAtMost(low - count, left, share)

/** By halving: `is` is false and then true. */
function firstWhere(from: number, to: number, is: (at: number) => boolean): number {
  let [low, high] = [from, to]
  while (low < high) {
    const middle = (low + high) >> 1
    if (is(middle)) high = middle
    else low = middle + 1
  }
  return low
}

/** D of the counts of at most N subjects. */
function decisive(counts: readonly number[], shares: readonly number[]): number {
  const left = DECISIVE_SUBJECTS - totalOf(counts)
  // What one of two arms has, the other one lacks.
  const told = shares.length === 2 ? shares.slice(0, 1) : shares
  const ratios = told.map((share, at) => {
    const of = boundsOf(share)
    // No count at all is so far off that it would be an alarm.
    return of.chance === 0 ? 1 : outside(counts[at] ?? 0, left, of) / of.chance
  })
  return totalOf(ratios) / ratios.length
}

/**
 * `looks`: cumulative counts, one list a look, in time order. Arms that nobody should be in have no place in them. One look
 * should be at exactly DECISIVE_SUBJECTS: without it nothing is known of how they stood, and only BF counts after them.
 */
export function sampleRatio(looks: readonly (readonly number[])[], weights: readonly number[]): SampleRatio {
  const total = totalOf(weights)
  const shares = weights.map((weight) => weight / total)
  let afterwards = 0
  let most = 1
  for (const counts of looks) {
    const n = totalOf(counts)
    const soFar = n <= DECISIVE_SUBJECTS ? decisive(counts, shares) : afterwards
    if (n === DECISIVE_SUBJECTS) afterwards = soFar
    // Beyond what a double holds, p is 0 all the same.
    const evidence = DECISIVE_SHARE * soFar + (1 - DECISIVE_SHARE) * Math.exp(logBayesFactor(counts, shares))
    most = Math.max(most, evidence)
  }
  const p = 1 / most
  return { p, mismatch: p < MISMATCH_ALPHA }
}

function totalOf(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0)
}
