// Q4_K: 256 elements in eight sub-blocks of 32, x = d·scale·q − dmin·minimum. Layout: d fp16; dmin fp16; 12 bytes of
// scales and minima; 128 bytes, in which 32 at a time hold two sub-blocks, the first in the low nibbles.
import type { BlockFormat } from './block-format.ts'
import { readHalf } from './half.ts'
import { unpackScale } from './k-scales.ts'

export const Q4_K: BlockFormat = {
  name: 'Q4_K',
  type: 12,
  elements: 256,
  bytes: 144,
  dequantise(blocks, out) {
    for (let at = 0, to = 0; at < blocks.length; at += 144, to += 256) {
      const d = readHalf(blocks, at)
      const dmin = readHalf(blocks, at + 2)
      for (let j = 0; j < 8; j += 1) {
        const [scale, minimum] = unpackScale(blocks, at + 4, j)
        const from = at + 16 + 32 * (j >> 1)
        const shift = 4 * (j & 1)
        for (let i = 0; i < 32; i += 1) {
          out[to + 32 * j + i] = d * scale * (((blocks[from + i] as number) >> shift) & 15) - dmin * minimum
        }
      }
    }
  },
}
