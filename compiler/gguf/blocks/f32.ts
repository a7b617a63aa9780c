// F32: the elements themselves.
import type { BlockFormat } from './block-format.ts'

export const F32: BlockFormat = {
  name: 'F32',
  type: 0,
  elements: 1,
  bytes: 4,
  dequantise(blocks, out) {
    new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(blocks)
  },
}
