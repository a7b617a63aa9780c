// Q5_K: 256 elements in eight sub-blocks of 32, x = d·scale·q − dmin·minimum. Layout: as Q4_K, with 32 bytes between the
// scales and the nibbles: bit j of byte i is the fifth bit of element i of sub-block j.
import type { BlockFormat } from './block-format.ts'
import { readHalf } from './half.ts'
import { unpackScale } from './k-scales.ts'

export const Q5_K: BlockFormat = {
  name: 'Q5_K',
  type: 13,
  elements: 256,
  bytes: 176,
  dequantise(blocks, out) {
    for (let at = 0, to = 0; at < blocks.length; at += 176, to += 256) {
      const d = readHalf(blocks, at)
      const dmin = readHalf(blocks, at + 2)
      for (let j = 0; j < 8; j += 1) {
        const [scale, minimum] = unpackScale(blocks, at + 4, j)
        const from = at + 48 + 32 * (j >> 1)
        const shift = 4 * (j & 1)
        for (let i = 0; i < 32; i += 1) {
          const low = ((blocks[from + i] as number) >> shift) & 15
          const fifth = ((blocks[at + 16 + i] as number) >> j) & 1
          out[to + 32 * j + i] = d * scale * (low | (fifth << 4)) - dmin * minimum
        }
      }
    }
  },
}
