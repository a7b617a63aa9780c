// Is the rank too low, too high, or right? What the spectrum alone can say of it, and what it cannot.
import type { RankComparison } from './evidence.ts'
import type { Figures } from './figures.ts'

/**
 * The spectrum of a change trained at rank r says nothing of what lies beyond r, but bounds it: the best change of rank
 * r keeps the r largest directions of what the task asks for, so each direction that is missing has at most σ_r². Twice
 * the rank could then add at most r·σ_r², in units of what there is:
 *     tail = r·σ_r² / Σᵢ σᵢ²      0 where the spectrum has decayed before r, 1 where it is flat up to r.
 * At or above this a quarter of what 2r would represent, tail / (1 + tail), may be missing: the spectrum has not decayed
 * at r and cannot clear the rank. It cannot convict it either: a task of exactly r equal directions
 * looks the same, and at r = 1 every spectrum is flat. That is for data to decide (`evidence.ts`).
 */
export const TAIL_AT_LIMIT = 1 / 3
/** What is true of at least this share of an adapter's modules is said of the adapter. */
export const SHARE_OF_MODULES = 0.5

/**
 * `unused`: the change is nothing. `at-limit`: the spectrum has not decayed at r. `spare`: fewer directions hold 99 % of
 * the energy. `fits`: neither. With evidence from data `at-limit` becomes `too-low` or `fits`.
 */
export const VERDICTS = ['unused', 'too-low', 'at-limit', 'fits', 'spare'] as const
export type Verdict = (typeof VERDICTS)[number]

export interface RankVerdict {
  readonly verdict: Verdict
  /** r where it is right, k where k directions do, 2r where r is too low or may be, 0 where the change is nothing. */
  readonly recommendedRank: number
}

/** What losses on data say: see `evidence.ts`. */
export type DataEvidence = RankComparison['evidence']

/**
 * `limit`: min(in, out), which no rank exceeds. `sufficient`: how many directions the losses say are needed, where they
 * were measured: energy is no loss, and a small direction may matter.
 */
export function judge(
  { rank, tail, k99 }: Pick<Figures, 'rank' | 'tail' | 'k99'>,
  r: number,
  limit: number,
  { evidence, sufficient = 0 }: { readonly evidence?: DataEvidence | undefined; readonly sufficient?: number } = {},
): RankVerdict {
  if (rank === 0) return { verdict: 'unused', recommendedRank: 0 }
  if (tail >= TAIL_AT_LIMIT && r < limit && evidence !== 'fits') {
    return { verdict: evidence === 'too-low' ? 'too-low' : 'at-limit', recommendedRank: Math.min(2 * r, limit) }
  }
  const needed = Math.min(rank, Math.max(k99, sufficient))
  return needed < r ? { verdict: 'spare', recommendedRank: needed } : { verdict: 'fits', recommendedRank: r }
}

/**
 * Of an adapter, from its modules. What data says goes before the spectra: it sees what is outside of them. Without it the
 * adapter is at its limit where enough of its modules are, and to spare where enough of them are.
 */
export function judgeAdapter(verdicts: readonly Verdict[], evidence: DataEvidence | undefined): Verdict {
  const used = verdicts.filter((verdict) => verdict !== 'unused')
  if (used.length === 0) return 'unused'
  if (evidence === 'too-low') return 'too-low'
  const share = (...wanted: Verdict[]) => used.filter((verdict) => wanted.includes(verdict)).length / used.length
  if (share('at-limit') >= SHARE_OF_MODULES) return 'at-limit'
  return share('spare') >= SHARE_OF_MODULES ? 'spare' : 'fits'
}

/** The rank needs somebody's attention: it is too low, or may be and nothing has cleared it. */
export const isFlagged = (verdict: Verdict) => verdict === 'too-low' || verdict === 'at-limit'
