// Seeded randomness for fuzz tests; a failure prints the seed, and SIDEPATH_FUZZ_SEED repeats it.

export const FUZZ_SEED = Number(process.env.SIDEPATH_FUZZ_SEED ?? 20261123)

/** mulberry32: uniform in [0, 1). */
export function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}

/** A copy of `bytes` with one to three bytes of [from, to) changed. */
export function mutate(bytes: Uint8Array, random: () => number, from = 0, to = bytes.length): Uint8Array {
  const copy = new Uint8Array(bytes)
  for (let edits = Math.ceil(random() * 3); edits > 0; edits -= 1) {
    copy[from + Math.floor(random() * (to - from))] = Math.floor(random() * 256)
  }
  return copy
}
