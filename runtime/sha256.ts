// SHA-256 (FIPS 180-4) where the platform has none that takes its input piece by piece: a page. See `Host` in
// compiler/host.ts.

const BLOCK = 64

/** The first 32 bits of the fractional parts of the square and cube roots of the first primes. */
const [START, ROUNDS] = rootsOfPrimes()

export function sha256() {
  const state = START.slice()
  const schedule = new Uint32Array(64)
  const pending = new Uint8Array(BLOCK)
  let held = 0
  let total = 0

  function compress(bytes: Uint8Array, at: number): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset + at, BLOCK)
    for (let t = 0; t < 16; t++) schedule[t] = view.getUint32(t * 4)
    for (let t = 16; t < 64; t++) {
      const [x, y] = [schedule[t - 15]!, schedule[t - 2]!]
      const small = turn(x, 7) ^ turn(x, 18) ^ (x >>> 3)
      const large = turn(y, 17) ^ turn(y, 19) ^ (y >>> 10)
      schedule[t] = schedule[t - 16]! + small + schedule[t - 7]! + large
    }
    let [a, b, c, d, e, f, g, h] = state as unknown as [number, number, number, number, number, number, number, number]
    for (let t = 0; t < 64; t++) {
      const choice = (e & f) ^ (~e & g)
      const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + choice + ROUNDS[t]! + schedule[t]!) | 0
      const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0
      h = g
      g = f
      f = e
      e = (d + one) | 0
      d = c
      c = b
      b = a
      a = (one + two) | 0
    }
    for (const [at, word] of [a, b, c, d, e, f, g, h].entries()) state[at] = state[at]! + word
  }

  function update(bytes: Uint8Array): void {
    total += bytes.length
    let at = 0
    if (held > 0) {
      at = Math.min(BLOCK - held, bytes.length)
      pending.set(bytes.subarray(0, at), held)
      held += at
      if (held < BLOCK) return
      compress(pending, 0)
      held = 0
    }
    for (; at + BLOCK <= bytes.length; at += BLOCK) compress(bytes, at)
    pending.set(bytes.subarray(at))
    held = bytes.length - at
  }

  return {
    update,
    hex(): string {
      const bits = BigInt(total) * 8n
      const padding = new Uint8Array((held < BLOCK - 8 ? BLOCK : 2 * BLOCK) - held)
      padding[0] = 0x80
      new DataView(padding.buffer).setBigUint64(padding.length - 8, bits)
      update(padding)
      return [...state].map((word) => word.toString(16).padStart(8, '0')).join('')
    },
  }
}

function turn(word: number, by: number): number {
  return (word >>> by) | (word << (32 - by))
}

function rootsOfPrimes(): [Uint32Array, Uint32Array] {
  const primes: number[] = []
  for (let n = 2; primes.length < 64; n++) if (primes.every((prime) => n % prime !== 0)) primes.push(n)
  const fraction = (root: number): number => Math.floor((root - Math.floor(root)) * 2 ** 32)
  return [
    Uint32Array.from(primes.slice(0, 8), (p) => fraction(Math.sqrt(p))),
    Uint32Array.from(primes, (p) => fraction(Math.cbrt(p))),
  ]
}
