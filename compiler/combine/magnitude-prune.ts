// Pruning by size: magnitude_prune, ties and their _svd forms.
import { inputError } from '../errors.ts'

/**
 * Keeps the k = ⌊density·n⌋ entries of largest |x|, zeroes the rest. Of entries equal in size those of lower index are
 * kept, so exactly k remain on every machine; PEFT's `topk` leaves that choice open.
 */
export function pruneByMagnitude(values: Float32Array, density: number, about: string): Float32Array {
  if (density >= 1) return values
  return keepLargest(values, countKept(values.length, density, about))
}

/** The `keep` entries of largest |x|, lower indices first among equals; zeros elsewhere. */
export function keepLargest(values: Float32Array, keep: number): Float32Array {
  if (keep === 0) return new Float32Array(values.length)
  const bits = magnitudeBits(values)
  const threshold = nthLargest(bits, keep)
  let above = 0
  for (let i = 0; i < bits.length; i += 1) if ((bits[i] as number) > threshold) above += 1
  let equal = keep - above
  const pruned = new Float32Array(values.length)
  for (let i = 0; i < bits.length; i += 1) {
    const size = bits[i] as number
    if (size > threshold) pruned[i] = values[i] as number
    else if (size === threshold && equal > 0) {
      pruned[i] = values[i] as number
      equal -= 1
    }
  }
  return pruned
}

/** ⌊density·n⌋. Throws `InputError` where nothing would be left. */
export function countKept(n: number, density: number, about: string): number {
  const keep = Math.floor(density * n)
  if (keep > 0) return keep
  throw inputError('adapter-option', `${about}: a density of ${density} keeps none of ${n} entries; raise it`)
}

/** |x| as integers of the same order: the bits of a positive float grow with it. */
function magnitudeBits(values: Float32Array): Uint32Array {
  const words = new Uint32Array(values.buffer, values.byteOffset, values.length)
  return words.map((word) => word & 0x7fffffff)
}

/** The nth largest, n from 1, by two counting passes over 16 bits each: linear in the length, whatever the values. */
function nthLargest(bits: Uint32Array, n: number): number {
  const high = countDown(bits, n, (word) => word >>> 16)
  const low = countDown(bits, high.rest, (word) => (word >>> 16 === high.digit ? word & 0xffff : -1))
  return (high.digit << 16) | low.digit
}

/** The digit in which the nth largest falls, and its place among the values with that digit. */
function countDown(bits: Uint32Array, n: number, digitOf: (word: number) => number): { digit: number; rest: number } {
  const counts = new Uint32Array(0x10000)
  for (let i = 0; i < bits.length; i += 1) {
    const digit = digitOf(bits[i] as number)
    if (digit >= 0) counts[digit] = (counts[digit] as number) + 1
  }
  let rest = n
  let digit = 0xffff
  while (digit > 0 && rest > (counts[digit] as number)) {
    rest -= counts[digit] as number
    digit -= 1
  }
  return { digit, rest }
}
