// F16: IEEE half precision, one an element.
import type { BlockFormat } from './block-format.ts'
import { readHalf } from './half.ts'

export const F16: BlockFormat = {
  name: 'F16',
  type: 1,
  elements: 1,
  bytes: 2,
  dequantise(blocks, out) {
    for (let i = 0; i < out.length; i += 1) out[i] = readHalf(blocks, 2 * i)
  },
}
