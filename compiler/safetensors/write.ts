// Encodes float32 tensors as a safetensors file: sorted by name, canonical header, so equal tensors give equal bytes.
import { canonicalJson, compareCodePoints } from '../canonical-json.ts'
import { assert } from '../errors.ts'

/** The header is padded with spaces so that the data starts aligned for any element type. */
const ALIGNMENT = 8

export interface FloatTensor {
  readonly shape: readonly number[]
  readonly data: Float32Array
}

/** `8 + header + data`, all little-endian. The result holds a copy of the data. */
export function encodeSafetensors(
  tensors: ReadonlyMap<string, FloatTensor>,
  metadata: Readonly<Record<string, string>>,
): Uint8Array<ArrayBuffer> {
  const sorted = [...tensors].sort(([a], [b]) => compareCodePoints(a, b))
  let end = 0
  const entries = sorted.map(([name, { shape, data }]) => {
    const count = shape.reduce((product, size) => product * size, 1)
    assert(count === data.length, `tensor ${name} has ${data.length} elements, not [${shape}]`)
    const begin = end
    end += data.byteLength
    return [name, { dtype: 'F32', shape, data_offsets: [begin, end] }] as const
  })
  const json = canonicalJson({ __metadata__: metadata, ...Object.fromEntries(entries) })
  const unpadded = new TextEncoder().encode(json)
  const headerBytes = Math.ceil(unpadded.length / ALIGNMENT) * ALIGNMENT
  const file = new Uint8Array(8 + headerBytes + end).fill(0x20, 8, 8 + headerBytes)
  new DataView(file.buffer).setBigUint64(0, BigInt(headerBytes), true)
  file.set(unpadded, 8)
  let at = 8 + headerBytes
  for (const [, { data }] of sorted) {
    file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at)
    at += data.byteLength
  }
  return file
}
