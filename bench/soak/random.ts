// Choices that are the same at every run with one seed.

export interface Random {
  /** 0 … below - 1. */
  next(below: number): number
  pick<T>(from: readonly T[]): T
}

export function randomFrom(seed: number): Random {
  let state = seed >>> 0
  const next = (below: number): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
  return { next, pick: (from) => from[next(from.length)]! }
}
