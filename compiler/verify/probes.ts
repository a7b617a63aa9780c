// The inputs of a verification: token ids and positions drawn from a seed, so that a run can be repeated.
import type { Architecture } from '../contract.ts'

export interface Probe {
  readonly ids: readonly number[]
  /** Ascending; the first need not be 0, and some are skipped. */
  readonly positions: readonly number[]
}

/** A decode step, an odd few, more than a vector register holds, and some that cross a block of the kernels. */
const LENGTHS = [1, 3, 8, 17, 33]

export function drawProbes(
  { vocabSize, maxPositions }: Pick<Architecture, 'vocabSize' | 'maxPositions'>,
  seed: number,
): Probe[] {
  const random = mulberry32(seed)
  const below = (limit: number) => Math.floor(random() * limit)
  const lengths = [...new Set(LENGTHS.map((length) => Math.min(length, maxPositions)))]
  return lengths.map((length) => {
    const ids = Array.from({ length }, () => below(vocabSize))
    // Gaps of 0 to 2 beside the step of 1, as far as the positions reach.
    const spread = Math.min(maxPositions, length * 2)
    let last = below(maxPositions - spread + 1) - 1
    let spare = spread - length
    const positions = ids.map(() => {
      const gap = Math.min(spare, below(3))
      spare -= gap
      last += 1 + gap
      return last
    })
    return { ids, positions }
  })
}

/** Uniform in [0, 1); github.com/bryc/code, PRNGs.md. */
function mulberry32(seed: number): () => number {
  let state = seed | 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}
