// Q4_1: 32 elements, x = d·q + m. Layout: d fp16; m fp16; 16 bytes of nibbles as in Q4_0.
import type { BlockFormat } from './block-format.ts'
import { readHalf } from './half.ts'

export const Q4_1: BlockFormat = {
  name: 'Q4_1',
  type: 3,
  elements: 32,
  bytes: 20,
  dequantise(blocks, out) {
    for (let at = 0, to = 0; at < blocks.length; at += 20, to += 32) {
      const d = readHalf(blocks, at)
      const m = readHalf(blocks, at + 2)
      for (let i = 0; i < 16; i += 1) {
        const q = blocks[at + 4 + i] as number
        out[to + i] = d * (q & 15) + m
        out[to + 16 + i] = d * (q >> 4) + m
      }
    }
  },
}
