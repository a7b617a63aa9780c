// Q6_K: 256 elements in sixteen sub-blocks of 16, x = d·scale·(q − 32). Layout: 128 bytes of low nibbles; 64 bytes of
// upper bit pairs; 16 signed scales; d fp16. Each half of 128 elements has four runs of 32: runs 0 and 2 share the low
// and high nibbles of its first 32 bytes, runs 1 and 3 those of the next; run k has bits 2k and 2k + 1 of the pairs.
import type { BlockFormat } from './block-format.ts'
import { readHalf } from './half.ts'

export const Q6_K: BlockFormat = {
  name: 'Q6_K',
  type: 14,
  elements: 256,
  bytes: 210,
  dequantise(blocks, out) {
    for (let at = 0, to = 0; at < blocks.length; at += 210, to += 256) {
      const d = readHalf(blocks, at + 208)
      for (let run = 0; run < 8; run += 1) {
        const half = run >> 2
        const k = run & 3
        const nibbles = at + 64 * half + 32 * (k & 1)
        const pairs = at + 128 + 32 * half
        const shift = 4 * (k >> 1)
        for (let i = 0; i < 32; i += 1) {
          const scale = ((blocks[at + 192 + 2 * run + (i >> 4)] as number) << 24) >> 24
          const low = ((blocks[nibbles + i] as number) >> shift) & 15
          const high = ((blocks[pairs + i] as number) >> (2 * k)) & 3
          out[to + 32 * run + i] = d * scale * ((low | (high << 4)) - 32)
        }
      }
    }
  },
}
