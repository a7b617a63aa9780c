// Is an answer under load that of the same request alone? Texts and ends are equal; log-probabilities within the engine's
// tolerance between batches.
import type { Said } from './ask.ts'

/** Invariant 3. */
export const TOLERANCE = 1e-4

/** The largest difference of a log-probability; undefined where the answers differ. */
export function differenceOf(found: readonly Said[], alone: readonly Said[]): number | undefined {
  let furthest = 0
  if (found.length !== alone.length) return undefined
  for (const [index, { text, finish, logprobs }] of found.entries()) {
    const expected = alone[index]!
    if (text !== expected.text || finish !== expected.finish || logprobs.length !== expected.logprobs.length)
      return undefined
    for (const [at, logprob] of logprobs.entries()) {
      furthest = Math.max(furthest, Math.abs(logprob - expected.logprobs[at]!))
    }
  }
  return furthest <= TOLERANCE ? furthest : undefined
}

/** What came before the end is the beginning of the answer alone, and of no other. */
export function isBeginning(found: readonly Said[], alone: readonly Said[]): boolean {
  return found.every(({ text }, index) => alone[index]?.text.startsWith(text) === true)
}
