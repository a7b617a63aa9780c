// Q5_0: 32 elements, x = d·(q − 16). Layout: d fp16; 32 bits, bit i the fifth bit of element i; nibbles as in Q4_0.
import type { BlockFormat } from './block-format.ts'
import { readHalf } from './half.ts'

export const Q5_0: BlockFormat = {
  name: 'Q5_0',
  type: 6,
  elements: 32,
  bytes: 22,
  dequantise(blocks, out) {
    for (let at = 0, to = 0; at < blocks.length; at += 22, to += 32) {
      const d = readHalf(blocks, at)
      for (let i = 0; i < 16; i += 1) {
        const q = blocks[at + 6 + i] as number
        const low = ((blocks[at + 2 + (i >> 3)] as number) >> (i & 7)) & 1
        const high = ((blocks[at + 4 + (i >> 3)] as number) >> (i & 7)) & 1
        out[to + i] = d * (((q & 15) | (low << 4)) - 16)
        out[to + 16 + i] = d * (((q >> 4) | (high << 4)) - 16)
      }
    }
  },
}
