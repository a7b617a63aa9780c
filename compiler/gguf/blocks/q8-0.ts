// Q8_0: 32 elements, x = d·q. Layout: d fp16; 32 signed bytes.
import type { BlockFormat } from './block-format.ts'
import { readHalf } from './half.ts'

export const Q8_0: BlockFormat = {
  name: 'Q8_0',
  type: 8,
  elements: 32,
  bytes: 34,
  dequantise(blocks, out) {
    for (let at = 0, to = 0; at < blocks.length; at += 34, to += 32) {
      const d = readHalf(blocks, at)
      for (let i = 0; i < 32; i += 1) out[to + i] = d * (((blocks[at + 2 + i] as number) << 24) >> 24)
    }
  },
}
