// BF16: the upper half of an F32.
import type { BlockFormat } from './block-format.ts'

export const BF16: BlockFormat = {
  name: 'BF16',
  type: 30,
  elements: 1,
  bytes: 2,
  dequantise(blocks, out) {
    const bits = new Uint32Array(out.buffer, out.byteOffset, out.length)
    for (let i = 0; i < bits.length; i += 1) {
      bits[i] = ((blocks[2 * i] as number) << 16) | ((blocks[2 * i + 1] as number) << 24)
    }
  },
}
