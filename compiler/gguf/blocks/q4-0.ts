// Q4_0: 32 elements, x = d·(q − 8). Layout: d fp16; 16 bytes, element i in the low nibble of byte i, i + 16 in the high.
import type { BlockFormat } from './block-format.ts'
import { readHalf } from './half.ts'

export const Q4_0: BlockFormat = {
  name: 'Q4_0',
  type: 2,
  elements: 32,
  bytes: 18,
  dequantise(blocks, out) {
    for (let at = 0, to = 0; at < blocks.length; at += 18, to += 32) {
      const d = readHalf(blocks, at)
      for (let i = 0; i < 16; i += 1) {
        const q = blocks[at + 2 + i] as number
        out[to + i] = d * ((q & 15) - 8)
        out[to + 16 + i] = d * ((q >> 4) - 8)
      }
    }
  },
}
