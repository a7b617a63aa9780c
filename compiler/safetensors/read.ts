// Reads the header of a safetensors file. Rules: github.com/huggingface/safetensors, README and tensor.rs; the file is
// untrusted, so everything is checked before any tensor is read.
import { inputError, quote } from '../errors.ts'
import type { ByteSource } from '../host.ts'
import { decodeJson } from '../read-file.ts'
import type { Json, JsonObject } from '../strict-json.ts'
import { DTYPE_BITS, type Dtype, isDtype } from './dtypes.ts'

/** The limit of the reference implementation, against headers that exist to exhaust memory. */
export const MAX_HEADER_BYTES = 100_000_000
/** More than any real tensor has; keeps shapes short in messages. */
const MAX_RANK = 16
const PREFIX_BYTES = 8

export interface StoredTensor {
  readonly name: string
  readonly dtype: Dtype
  readonly shape: readonly number[]
  readonly source: ByteSource
  /** Absolute position in `source`. */
  readonly offset: number
  readonly bytes: number
}

export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, StoredTensor>
  readonly metadata: ReadonlyMap<string, string>
}

/** Throws `InputError` (`safetensors-invalid`) unless the file is whole and unambiguous. */
export async function readHeader(source: ByteSource): Promise<SafetensorsHeader> {
  if (source.size < PREFIX_BYTES) fail(source, `${source.size} bytes; even an empty file has ${PREFIX_BYTES}`)
  const prefix = await source.read(0, PREFIX_BYTES)
  const declared = new DataView(prefix.buffer, prefix.byteOffset, PREFIX_BYTES).getBigUint64(0, true)
  if (declared > BigInt(MAX_HEADER_BYTES)) fail(source, `a header of ${declared} bytes; at most ${MAX_HEADER_BYTES}`)
  const headerBytes = Number(declared)
  const dataStart = PREFIX_BYTES + headerBytes
  if (dataStart > source.size) {
    fail(source, `a header of ${headerBytes} bytes in a file of ${source.size}; it was cut short, copy it again`)
  }
  const header = await source.read(PREFIX_BYTES, headerBytes)
  if (header[0] !== 0x7b) fail(source, 'the header does not start with "{"; this is not a safetensors file')
  const json = decodeJson(header, source.name, 'safetensors-invalid', 'counts')
  if (!isObject(json)) return fail(source, 'the header is not an object')
  const { __metadata__: metadata, ...entries } = json
  const tensors = Object.entries(entries).map(([name, entry]) => parseTensor(source, name, entry, dataStart))
  checkLayout(source, tensors, dataStart)
  return {
    tensors: new Map(tensors.map((tensor) => [tensor.name, tensor])),
    metadata: parseMetadata(source, metadata),
  }
}

function parseTensor(source: ByteSource, name: string, entry: Json, dataStart: number): StoredTensor {
  const about = `tensor ${quote(name)}`
  if (!isObject(entry)) return fail(source, `${about} is not described by an object`)
  const { dtype, shape, data_offsets: offsets, ...others } = entry
  const [other] = Object.keys(others)
  if (other !== undefined) fail(source, `${about} has an unknown field ${quote(other)}`)
  if (!isDtype(dtype)) return fail(source, `${about} has the unknown dtype ${quote(String(dtype))}`)
  if (!isCounts(shape) || shape.length > MAX_RANK) return fail(source, `${about} has a shape that is no list of sizes`)
  if (!isCounts(offsets) || offsets.length !== 2) return fail(source, `${about} has no data_offsets [begin, end]`)
  const [begin = 0, end = 0] = offsets
  const size = source.size - dataStart
  if (begin > end || end > size) {
    fail(source, `${about} has data_offsets [${begin}, ${end}] outside the ${size} bytes of data`)
  }
  const bytes = end - begin
  const expected = checkedBytes(shape, DTYPE_BITS[dtype])
  if (expected !== bytes) {
    fail(source, `${about}, ${dtype} [${shape}], takes ${expected ?? 'too many'} bytes but data_offsets give ${bytes}`)
  }
  return { name, dtype, shape, source, offset: dataStart + begin, bytes }
}

/** Sorted by offset the tensors must tile the data section: no hole, no overlap, nothing after the last. */
function checkLayout(source: ByteSource, tensors: readonly StoredTensor[], dataStart: number): void {
  const sorted = [...tensors].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)
  let end = dataStart
  for (const tensor of sorted) {
    if (tensor.offset !== end) {
      const kind = tensor.offset < end ? 'overlaps the tensor before it' : 'leaves a hole before it'
      fail(source, `tensor ${quote(tensor.name)} ${kind}`)
    }
    end += tensor.bytes
  }
  if (end !== source.size) fail(source, `${source.size - end} bytes after the last tensor`)
}

function parseMetadata(source: ByteSource, json: Json | undefined): Map<string, string> {
  if (json === undefined) return new Map()
  if (!isObject(json)) return fail(source, '__metadata__ is not an object')
  return new Map(
    Object.entries(json).map(([key, value]) => {
      if (typeof value !== 'string') return fail(source, `__metadata__ ${quote(key)} is not a string`)
      return [key, value] as const
    }),
  )
}

/** prod(shape)·bits/8, or `undefined` when it is not a whole number of bytes below 2^53. */
function checkedBytes(shape: readonly number[], bits: number): number | undefined {
  // A zero anywhere makes the size zero, however large the product of the others.
  if (shape.includes(0)) return 0
  let count = 1
  for (const size of shape) {
    count *= size
    if (count * bits > Number.MAX_SAFE_INTEGER) return undefined
  }
  return (count * bits) % 8 === 0 ? (count * bits) / 8 : undefined
}

function isObject(json: Json | undefined): json is JsonObject {
  return typeof json === 'object' && json !== null && !Array.isArray(json)
}

// The scanner admits unsigned integers only, so a number here is a count.
function isCounts(json: Json | undefined): json is number[] {
  return Array.isArray(json) && json.every((item) => typeof item === 'number')
}

function fail(source: ByteSource, what: string): never {
  throw inputError('safetensors-invalid', `${source.name}: ${what}`)
}
