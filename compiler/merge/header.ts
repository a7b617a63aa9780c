// The header of an output file: the base's own bytes, or, where a tensor is added, the same entries and one more.
import { HEAD } from '../checkpoint/decoder.ts'
import { readHeader, type StoredTensor } from '../safetensors/read.ts'
import type { Shard } from './open-base.ts'

/** So that the data starts aligned for any element type. */
const ALIGNMENT = 8

/** The header of `shard` with a head of the dtype and shape of `tied` after its last tensor. */
export async function headerWithHead(shard: Shard, tied: StoredTensor): Promise<Uint8Array<ArrayBuffer>> {
  const { metadata } = await readHeader(shard.source)
  const entry = ({ dtype, shape }: StoredTensor, begin: number, end: number) => ({
    dtype,
    shape,
    data_offsets: [begin, end],
  })
  const end = shard.source.size - shard.dataStart
  const entries = shard.tensors.map((tensor) => {
    const begin = tensor.offset - shard.dataStart
    return [tensor.name, entry(tensor, begin, begin + tensor.bytes)] as const
  })
  const json = JSON.stringify({
    ...(metadata.size === 0 ? {} : { __metadata__: Object.fromEntries(metadata) }),
    ...Object.fromEntries([...entries, [HEAD, entry(tied, end, end + tied.bytes)]]),
  })
  const text = new TextEncoder().encode(json)
  const length = Math.ceil(text.length / ALIGNMENT) * ALIGNMENT
  const header = new Uint8Array(8 + length).fill(0x20)
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true)
  header.set(text, 8)
  return header
}
