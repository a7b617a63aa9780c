// IEEE 754 half precision at any byte offset: the scales of blocks.
import { halfTable } from '../../safetensors/decode.ts'

/** The little-endian fp16 at `at`, as a number. */
export function readHalf(bytes: Uint8Array, at: number): number {
  return halfTable()[(bytes[at] as number) | ((bytes[at + 1] as number) << 8)] as number
}
