// What losses on data of the task say about a rank: which part of it the task uses, and whether a larger one does better.
import type { Modules } from '../verify/side-path.ts'
import { type Difference, difference, type Losses } from './losses.ts'
import type { Spectrum } from './spectrum.ts'

/** Share of what an adapter gains over the base that is as good as nothing. */
export const NEGLIGIBLE_GAIN = 0.02
/** Standard errors that a difference must be from its bound: about 97.5 %, one-sided. */
export const SURE = 2

export const EVIDENCE = ['too-low', 'fits', 'undecided'] as const
/** Of a comparison with an adapter of a larger rank. */
export interface RankComparison {
  /** The adapter of a larger rank with the lowest loss. */
  readonly against: string
  /** How much lower its loss is, in nats a token. */
  readonly gain: Difference
  /** `gain` over what the other gains over the base. */
  readonly share: number
  readonly evidence: (typeof EVIDENCE)[number]
}

export interface Rung {
  /** The leading k directions of every module. */
  readonly k: number
  readonly loss: number
  /** What is lost against the whole adapter, in nats a token. */
  readonly lost: Difference
}

export interface Candidate {
  readonly name: string
  /** By module, the trained rank. */
  readonly ranks: ReadonlyMap<string, number>
}

/**
 * The adapters of one call may be one task at several ranks. `place` is compared with the best of those that have its
 * modules, none at a lower rank and one at a higher: if that has a lower loss for sure, by more than is negligible, the
 * rank was too low; if for sure it has not, though it did learn the task, the rank fits. `undefined` without such a one.
 */
export function compareRanks(
  candidates: readonly Candidate[],
  { tokens, base, variants }: Losses,
  place: number,
): RankComparison | undefined {
  const own = candidates[place] as Candidate
  const count = tokens.reduce((sum, n) => sum + n, 0)
  const lossOf = (at: number) => (variants[at]?.losses ?? []).reduce((sum, loss) => sum + loss, 0) / count
  const [best] = candidates
    .flatMap((candidate, at) => (isLarger(candidate, own) ? [{ candidate, at }] : []))
    .sort((a, b) => lossOf(a.at) - lossOf(b.at))
  if (best === undefined) return undefined
  const theirs = variants[best.at]?.losses ?? []
  const gain = difference(tokens, variants[place]?.losses ?? [], theirs)
  const learnt = difference(tokens, base, theirs)
  const bound = NEGLIGIBLE_GAIN * learnt.value
  const isLearnt = learnt.value > SURE * learnt.standardError
  const evidence = !isLearnt
    ? 'undecided'
    : gain.value - SURE * gain.standardError > bound
      ? 'too-low'
      : gain.value + SURE * gain.standardError < bound
        ? 'fits'
        : 'undecided'
  return { against: best.candidate.name, gain, share: learnt.value === 0 ? 0 : gain.value / learnt.value, evidence }
}

function isLarger({ ranks }: Candidate, than: Candidate): boolean {
  const pairs = [...than.ranks].map(([module, r]) => [ranks.get(module) ?? 0, r] as const)
  return pairs.every(([theirs, r]) => theirs >= r) && pairs.some(([theirs, r]) => theirs > r)
}

/** k = 1, 2, 4 … below `r`. */
export function rungsBelow(r: number): number[] {
  const rungs: number[] = []
  for (let k = 1; k < r; k *= 2) rungs.push(k)
  return rungs
}

/** The smallest k whose loss is, for sure, within what is negligible; `whole` where none is. */
export function smallestSufficient(rungs: readonly Rung[], gained: number, whole: number): number {
  const bound = NEGLIGIBLE_GAIN * gained
  return rungs.find(({ lost }) => lost.value + SURE * lost.standardError <= bound)?.k ?? whole
}

/** Each module's leading `k` directions, as a bank holds them: A = v·√σ [in, k], B = √σ·uᵀ [k, out]. */
export function truncate(spectra: ReadonlyMap<string, Spectrum>, k: number): Modules {
  return new Map(
    [...spectra].map(([module, { values, left, right }]) => {
      const r = Math.max(1, Math.min(k, values.length))
      const roots = values.slice(0, r).map(Math.sqrt)
      const us = roots.map((_, i) => left(i))
      const vs = roots.map((_, i) => right(i))
      const [out, columns] = [us[0]?.length ?? 0, vs[0]?.length ?? 0]
      const A = new Float32Array(columns * r)
      const B = new Float32Array(r * out)
      for (const [i, root] of roots.entries()) {
        for (let j = 0; j < columns; j += 1) A[j * r + i] = root * ((vs[i] as Float64Array)[j] as number)
        for (let j = 0; j < out; j += 1) B[i * out + j] = root * ((us[i] as Float64Array)[j] as number)
      }
      return [module, { r, A, B }]
    }),
  )
}
