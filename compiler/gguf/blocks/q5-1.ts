// Q5_1: 32 elements, x = d·q + m. Layout: d fp16; m fp16; 32 fifth bits; nibbles as in Q4_0.
import type { BlockFormat } from './block-format.ts'
import { readHalf } from './half.ts'

export const Q5_1: BlockFormat = {
  name: 'Q5_1',
  type: 7,
  elements: 32,
  bytes: 24,
  dequantise(blocks, out) {
    for (let at = 0, to = 0; at < blocks.length; at += 24, to += 32) {
      const d = readHalf(blocks, at)
      const m = readHalf(blocks, at + 2)
      for (let i = 0; i < 16; i += 1) {
        const q = blocks[at + 8 + i] as number
        const low = ((blocks[at + 4 + (i >> 3)] as number) >> (i & 7)) & 1
        const high = ((blocks[at + 6 + (i >> 3)] as number) >> (i & 7)) & 1
        out[to + i] = d * ((q & 15) | (low << 4)) + m
        out[to + 16 + i] = d * ((q >> 4) | (high << 4)) + m
      }
    }
  },
}
