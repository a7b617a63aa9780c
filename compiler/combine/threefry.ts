// Random numbers by counter: entry i of a stream depends on the seed, the stream's name and i, and on nothing else.

/**
 * Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011),
 * the generator of JAX. Encrypts the counter (x0, x1) under the key (k0, k1) into `out`, as unsigned 32-bit words.
 */
function threefry(k0: number, k1: number, x0: number, x1: number, out: Uint32Array): void {
  const k2 = 0x1bd11bda ^ k0 ^ k1
  let a = (x0 + k0) | 0
  let b = (x1 + k1) | 0
  for (let group = 0; group < 5; group += 1) {
    const even = (group & 1) === 0
    a = (a + b) | 0
    b = even ? (b << 13) | (b >>> 19) : (b << 17) | (b >>> 15)
    b ^= a
    a = (a + b) | 0
    b = even ? (b << 15) | (b >>> 17) : (b << 29) | (b >>> 3)
    b ^= a
    a = (a + b) | 0
    b = even ? (b << 26) | (b >>> 6) : (b << 16) | (b >>> 16)
    b ^= a
    a = (a + b) | 0
    b = even ? (b << 6) | (b >>> 26) : (b << 24) | (b >>> 8)
    b ^= a
    const injected = (group + 1) % 3
    a = (a + (injected === 0 ? k0 : injected === 1 ? k1 : k2)) | 0
    b = (b + (injected === 0 ? k1 : injected === 1 ? k2 : k0) + group + 1) | 0
  }
  out[0] = a
  out[1] = b
}

export type Stream = (count: number) => Float64Array

/**
 * A stream of numbers in [0, 1), multiples of 2⁻³². The key starts as (seed, 0) and absorbs the UTF-8 bytes of `name`,
 * four at a time and zero-padded: key ← threefry(key, (word, position)). Numbers 2i and 2i + 1 are threefry(key, (i, 0)).
 */
export function stream(seed: number, name: string): Stream {
  const words = new Uint32Array([seed, 0])
  const bytes = new TextEncoder().encode(name)
  for (let at = 0; at < bytes.length; at += 4) {
    const byte = (i: number) => bytes[at + i] ?? 0
    const word = byte(0) | (byte(1) << 8) | (byte(2) << 16) | (byte(3) << 24)
    threefry(words[0] as number, words[1] as number, word, at / 4, words)
  }
  const [k0 = 0, k1 = 0] = words
  return (count) => {
    const numbers = new Float64Array(count)
    const pair = new Uint32Array(2)
    for (let i = 0; i < count; i += 2) {
      threefry(k0, k1, i / 2, 0, pair)
      numbers[i] = (pair[0] as number) * 2 ** -32
      if (i + 1 < count) numbers[i + 1] = (pair[1] as number) * 2 ** -32
    }
    return numbers
  }
}
