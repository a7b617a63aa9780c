// Random numbers of one request: the same seed gives the same sequence on every machine, whoever else is in the batch.

/** Uniform in [0, 1) with 53 bits, from xoshiro128** (Blackman and Vigna, 2018) seeded through splitmix32. */
export function randomFrom(seed: number): () => number {
  // The two halves of a 53-bit integer; `>>>` takes negative seeds modulo 2^32.
  let mix = (seed >>> 0) ^ Math.imul(Math.floor(seed / 2 ** 32) >>> 0, 0x85ebca6b)
  const split = (): number => {
    mix = (mix + 0x9e3779b9) | 0
    let z = mix ^ (mix >>> 16)
    z = Math.imul(z, 0x21f0aaad)
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97)
    return z ^ (z >>> 15)
  }
  let a = split()
  let b = split()
  let c = split()
  let d = split()
  const next = (): number => {
    const scrambled = Math.imul(rotate(Math.imul(b, 5), 7), 9)
    const t = b << 9
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    c ^= t
    d = rotate(d, 11)
    return scrambled >>> 0
  }
  return () => ((next() >>> 5) * 2 ** 26 + (next() >>> 6)) / 2 ** 53
}

function rotate(x: number, bits: number): number {
  return (x << bits) | (x >>> (32 - bits))
}
