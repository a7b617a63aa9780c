// Blocks of a GGUF as com.microsoft::MatMulNBits reads them: the same numbers in another order of bytes, no rounding.
//
//   Q4_0, Q8_0, Q5_0   w = d·(q − z)              codes q − z, scale d
//   Q4_1, Q5_1         w = d·q + m                codes q − z, scale d, offset m
//   Q4_K, Q5_K         w = (d·a)·q − e·b          codes q − z, scale d·a, offset −e·b
//   Q6_K               w = (d·a)·(q − 32)         codes q − 32, scale d·a
//
// d, e, m are halves and stay halves. a and b are integers of six to eight bits: d·a has at most 19 significant bits, so it is
// exact in float32 and not in a half. Five and six bits take a byte each: the operator has codes of 4 and 8 bits.
//
// z, 8 or 16, is the middle of the codes. Where there is an offset, the graph adds z·scale to it, in float32. Codes from 0
// on, with m for an offset, would be the same weight; but where x is rounded, the error of x would be multiplied by q·d, which
// m is to cancel and the product with m, whose x is not rounded, could not.
import { unpackScale } from '../gguf/blocks/k-scales.ts'
import type { ElementType } from '../onnx/model.ts'
import { halfTable } from '../safetensors/decode.ts'
import { type Part, type PlacedPart, quantisedNames } from './place.ts'

/** Where blocks go: one code a byte, not yet packed, and what goes with each block. */
export interface Unpacked {
  /** Signed: what a scale is multiplied by. */
  readonly codes: Int16Array
  /** Halves as they are, or float32. */
  readonly scales: Uint16Array<ArrayBuffer> | Float32Array<ArrayBuffer>
  readonly offsets: Uint16Array<ArrayBuffer> | Float32Array<ArrayBuffer>
}

interface Layout {
  /** Of one block of the file. */
  readonly elements: number
  readonly bytes: number
  /** The least that holds every code. */
  readonly bits: 4 | 8
  /** z, where there is an offset: what the graph adds to it, in scales. */
  readonly centre: 0 | 8 | 16
  /** Weights that share a scale. */
  readonly block: 16 | 32
  readonly scales: 'float16' | 'float32'
  readonly affine: boolean
  unpack(blocks: Uint8Array, at: number, to: Unpacked, index: number): void
}

export interface Carrier extends Layout {
  readonly format: string
  readonly storage: 'int4' | 'int8'
}

const half = (blocks: Uint8Array, at: number) => (blocks[at] as number) | ((blocks[at + 1] as number) << 8)

/** 16 bytes: element i in the low nibble of byte i, element i + 16 in the high one. */
function nibbles(blocks: Uint8Array, at: number, codes: Int16Array, to: number, minus: number): void {
  for (let i = 0; i < 16; i += 1) {
    const byte = blocks[at + i] as number
    codes[to + i] = (byte & 15) - minus
    codes[to + 16 + i] = (byte >> 4) - minus
  }
}

/** 32 fifth bits over nibbles that are there already. */
function fifthBits(blocks: Uint8Array, at: number, codes: Int16Array, to: number): void {
  for (let i = 0; i < 32; i += 1) {
    const bit = ((blocks[at + (i >> 3)] as number) >> (i & 7)) & 1
    codes[to + i] = (codes[to + i] as number) + 16 * bit
  }
}

const SIMPLE = { elements: 32, block: 32, scales: 'float16' } as const
const SUPER = { elements: 256, scales: 'float32' } as const

const LAYOUTS: Readonly<Record<string, Layout>> = {
  Q4_0: {
    ...SIMPLE,
    bytes: 18,
    bits: 4,
    centre: 0,
    affine: false,
    unpack(blocks, at, to, index) {
      to.scales[index] = half(blocks, at)
      nibbles(blocks, at + 2, to.codes, 32 * index, 8)
    },
  },
  Q4_1: {
    ...SIMPLE,
    bytes: 20,
    bits: 4,
    centre: 8,
    affine: true,
    unpack(blocks, at, to, index) {
      to.scales[index] = half(blocks, at)
      to.offsets[index] = half(blocks, at + 2)
      nibbles(blocks, at + 4, to.codes, 32 * index, 8)
    },
  },
  Q5_0: {
    ...SIMPLE,
    bytes: 22,
    bits: 8,
    centre: 0,
    affine: false,
    unpack(blocks, at, to, index) {
      to.scales[index] = half(blocks, at)
      nibbles(blocks, at + 6, to.codes, 32 * index, 16)
      fifthBits(blocks, at + 2, to.codes, 32 * index)
    },
  },
  Q5_1: {
    ...SIMPLE,
    bytes: 24,
    bits: 8,
    centre: 16,
    affine: true,
    unpack(blocks, at, to, index) {
      to.scales[index] = half(blocks, at)
      to.offsets[index] = half(blocks, at + 2)
      nibbles(blocks, at + 8, to.codes, 32 * index, 16)
      fifthBits(blocks, at + 4, to.codes, 32 * index)
    },
  },
  Q8_0: {
    ...SIMPLE,
    bytes: 34,
    bits: 8,
    centre: 0,
    affine: false,
    unpack(blocks, at, to, index) {
      to.scales[index] = half(blocks, at)
      for (let i = 0; i < 32; i += 1) to.codes[32 * index + i] = ((blocks[at + 2 + i] as number) << 24) >> 24
    },
  },
  Q4_K: {
    ...SUPER,
    bytes: 144,
    bits: 4,
    centre: 8,
    block: 32,
    affine: true,
    unpack(blocks, at, to, index) {
      superBlock(blocks, at, at + 16, to, index, 8)
    },
  },
  Q5_K: {
    ...SUPER,
    bytes: 176,
    bits: 8,
    centre: 16,
    block: 32,
    affine: true,
    unpack(blocks, at, to, index) {
      superBlock(blocks, at, at + 48, to, index, 16)
      for (let j = 0; j < 8; j += 1) {
        for (let i = 0; i < 32; i += 1) {
          const k = 256 * index + 32 * j + i
          to.codes[k] = (to.codes[k] as number) + 16 * (((blocks[at + 16 + i] as number) >> j) & 1)
        }
      }
    },
  },
  Q6_K: {
    ...SUPER,
    bytes: 210,
    bits: 8,
    centre: 0,
    block: 16,
    affine: false,
    unpack(blocks, at, to, index) {
      const d = halfTable()[half(blocks, at + 208)] as number
      for (let sub = 0; sub < 16; sub += 1) {
        to.scales[16 * index + sub] = d * (((blocks[at + 192 + sub] as number) << 24) >> 24)
      }
      for (let i = 0; i < 256; i += 1) {
        const [upper, run, k] = [i >> 7, (i >> 5) & 3, i & 31]
        const low = (blocks[at + 64 * upper + 32 * (run & 1) + k] as number) >> (4 * (run >> 1))
        const high = (blocks[at + 128 + 32 * upper + k] as number) >> (2 * run)
        to.codes[256 * index + i] = ((low & 15) | ((high & 3) << 4)) - 32
      }
    },
  },
}

/** What Q4_K and Q5_K share: d and e, eight scales and minima, and low nibbles from `from` on, two sub-blocks in 32 bytes. */
function superBlock(blocks: Uint8Array, at: number, from: number, to: Unpacked, index: number, z: number): void {
  const d = halfTable()[half(blocks, at)] as number
  const e = halfTable()[half(blocks, at + 2)] as number
  for (let j = 0; j < 8; j += 1) {
    const [scale, minimum] = unpackScale(blocks, at + 4, j)
    to.scales[8 * index + j] = d * scale
    to.offsets[8 * index + j] = -(e * minimum)
    const start = from + 32 * (j >> 1)
    for (let i = 0; i < 32; i += 1) {
      to.codes[256 * index + 32 * j + i] = (((blocks[start + i] as number) >> (4 * (j & 1))) & 15) - z
    }
  }
}

/** `wide`: codes of a byte whatever the format, as rows that are looked up need them. `undefined`: no form without loss. */
export function carrierOf(format: string, wide: boolean): Carrier | undefined {
  const layout = Object.hasOwn(LAYOUTS, format) ? LAYOUTS[format] : undefined
  if (layout === undefined) return undefined
  const bits = wide ? 8 : layout.bits
  return { ...layout, bits, format, storage: bits === 4 ? 'int4' : 'int8' }
}

/** In file order, the codes first. */
export function carriedParts(
  weight: string,
  carrier: Carrier,
  [out, inSize]: readonly [number, number],
): readonly PlacedPart[] {
  const { bits, block, scales, affine, storage } = carrier
  const names = quantisedNames(weight)
  const perRow = inSize / block
  const placed = (name: string, type: ElementType, dims: readonly number[], part: Part) => ({ name, type, dims, part })
  return [
    placed(names[storage], 'uint8', [out, perRow, (block * bits) / 8], 'codes'),
    placed(names.scales, scales, [out, perRow], 'scales'),
    ...(affine ? [placed(names.offsets, scales, [out, perRow], 'offsets')] : []),
  ]
}
