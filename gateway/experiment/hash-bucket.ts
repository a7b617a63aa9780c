// GrowthBook's hash, version 2, and integer ranges: where a subject falls in [0, 10000).
// n = fnv1a32(fnv1a32(seed + value) + "") mod 10000, over UTF-16 code units; callers pass ASCII, where every SDK agrees.

export const BUCKETS = 10_000

function fnv1a32(text: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) {
    hash ^= text.charCodeAt(i)
    hash = Math.imul(hash, 0x01000193)
  }
  return hash >>> 0
}

export function hashBucket(seed: string, value: string): number {
  return fnv1a32(String(fnv1a32(seed + value))) % BUCKETS
}

/** The arm whose range [sum of the weights before it, + its own weight) holds the bucket. Weights sum to 10,000. */
export function pickArm<T extends { readonly weight: number }>(arms: readonly T[], bucket: number): T | undefined {
  let end = 0
  for (const arm of arms) {
    end += arm.weight
    if (bucket < end) return arm
  }
  return undefined
}

/** Rendezvous hashing: the same key prefers the same candidate, whatever others come or go. */
export function orderByAffinity<T extends { readonly id: string }>(candidates: readonly T[], key: string): T[] {
  const score = new Map(candidates.map((candidate) => [candidate, fnv1a32(String(fnv1a32(candidate.id + key)))]))
  return [...candidates].sort((a, b) => (score.get(b) ?? 0) - (score.get(a) ?? 0) || (a.id < b.id ? -1 : 1))
}
