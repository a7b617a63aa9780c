// GrowthBook's hash and integer ranges: where a subject falls in [0, 10000).
// n = fnv1a32(fnv1a32(seed + value) + "") mod 10000, over UTF-16 code units; callers pass ASCII, where every SDK agrees.

export const BUCKETS = 10_000
/** Namespaces use GrowthBook's first hash, in thousandths, as its SDKs do. */
export const NAMESPACE_BUCKETS = 1_000

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

/** Version 1: n = fnv1a32(value + seed) mod 1000. Its seeds correlate, so nothing but namespaces uses it. */
export function hashThousandth(seed: string, value: string): number {
  return fnv1a32(value + seed) % NAMESPACE_BUCKETS
}

export const namespaceBucket = (namespace: string, value: string): number => hashThousandth(`__${namespace}`, value)

/**
 * The arm whose range holds the bucket: [start, start + weight · coverage), start the sum of the weights before it.
 * A range is anchored at its start and grows with the coverage inside its arm's own place, so that more coverage brings in
 * subjects and moves none from arm to arm. Weights sum to 10,000; coverage is of 10,000.
 */
export function pickArm<T extends { readonly weight: number }>(
  arms: readonly T[],
  bucket: number,
  coverage = BUCKETS,
): T | undefined {
  let start = 0
  for (const arm of arms) {
    if (bucket < start + arm.weight) return (bucket - start) * BUCKETS < arm.weight * coverage ? arm : undefined
    start += arm.weight
  }
  return undefined
}

/**
 * Buckets that an arm has at a coverage: a range that ends inside a bucket has the whole of it. At small coverages the arms'
 * shares are those of their buckets and not quite those of their weights. Without any coverage, as if there were all.
 */
export function bucketsOf(weight: number, coverage: number): number {
  return Math.ceil((weight * (coverage === 0 ? BUCKETS : coverage)) / BUCKETS)
}

/** Rendezvous hashing: the same key prefers the same candidate, whatever others come or go. */
export function orderByAffinity<T extends { readonly id: string }>(candidates: readonly T[], key: string): T[] {
  const score = new Map(candidates.map((candidate) => [candidate, fnv1a32(String(fnv1a32(candidate.id + key)))]))
  return [...candidates].sort((a, b) => (score.get(b) ?? 0) - (score.get(a) ?? 0) || (a.id < b.id ? -1 : 1))
}
