// 4-bit NormalFloat as com.microsoft::MatMulBnb4 reads it, with double quantisation: w ≈ table[q]·a.
//
// a, the largest |w| of a block, is itself an integer times a scale shared by 256 blocks: â = k·max(a) / 255. The graph
// multiplies it out again when it is loaded (graph/linear.ts), for the operator wants a float a block. Codes are chosen for
// â, not for a. Source of the table: QLoRA (arXiv:2305.14314), appendix E.

export const NF4 = [
  -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
  -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
  0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
] as const
/** Blocks that share a scale. */
export const GROUP = 256

/** Largest value that is nearest to code k, exclusive: halfway to the next. */
export const EDGES = NF4.slice(1).map((value, k) => (value + (NF4[k] as number)) / 2)

export interface Nf4Magnitudes {
  /** A byte a block, padded with zeros to whole groups. */
  readonly codes: Uint8Array<ArrayBuffer>
  /** One a group. */
  readonly scales: Float32Array<ArrayBuffer>
}

/** `largest`: per block. */
export function quantiseMagnitudes(largest: Float32Array): Nf4Magnitudes {
  const groups = Math.ceil(largest.length / GROUP)
  const codes = new Uint8Array(groups * GROUP)
  const scales = new Float32Array(groups)
  for (let group = 0; group < groups; group += 1) {
    const part = largest.subarray(group * GROUP, (group + 1) * GROUP)
    let most = 0
    for (const value of part) if (value > most) most = value
    scales[group] = most / 255
    const scale = scales[group] as number
    // Never 0 where the block is not: all of it would be lost.
    for (const [i, value] of part.entries()) {
      codes[group * GROUP + i] = value === 0 || scale === 0 ? 0 : Math.min(255, Math.max(1, Math.round(value / scale)))
    }
  }
  return { codes, scales }
}

/** The largest |w| of each block. */
export function magnitudes(values: Float32Array, block: number): Float32Array<ArrayBuffer> {
  const largest = new Float32Array(values.length / block)
  for (let b = 0; b < largest.length; b += 1) {
    let most = 0
    for (let i = b * block; i < (b + 1) * block; i += 1) {
      const size = Math.abs(values[i] as number)
      if (size > most) most = size
    }
    largest[b] = most
  }
  return largest
}

/** Two codes a byte, the first one high. `values`: whole blocks, from the start of a group. */
export function quantiseNf4(values: Float32Array, block: number, { codes, scales }: Nf4Magnitudes) {
  const packed = new Uint8Array(values.length / 2)
  let squaredError = 0
  let squaredNorm = 0
  for (let b = 0; b < values.length / block; b += 1) {
    const size = Math.fround((codes[b] as number) * (scales[Math.floor(b / GROUP)] as number))
    const inverse = size === 0 ? 0 : 1 / size
    for (let i = b * block; i < (b + 1) * block; i += 1) {
      const value = values[i] as number
      const k = nearest(value * inverse)
      packed[i >> 1] = (packed[i >> 1] as number) | ((i & 1) === 0 ? k << 4 : k)
      squaredError += ((NF4[k] as number) * size - value) ** 2
      squaredNorm += value * value
    }
  }
  return { packed, squaredError, squaredNorm }
}

function nearest(x: number): number {
  let k = x >= (EDGES[7] as number) ? 8 : 0
  if (x >= (EDGES[k + 3] as number)) k += 4
  if (x >= (EDGES[k + 1] as number)) k += 2
  return x >= (EDGES[k] as number) ? k + 1 : k
}
