// A GGUF's weights as a safetensors file that exists nowhere: its bytes are made from the blocks when they are read.
import { canonicalJson } from '../canonical-json.ts'
import { inputError, quote } from '../errors.ts'
import type { ByteSource } from '../host.ts'
import type { NamedTensor } from './name-tensors.ts'
import { type StoredFloats, storedFloats, turnedRow } from './stored-floats.ts'

const HEADER_ALIGNMENT = 8

/** A tensor as it is quantised in the file, rows in the order of Hugging Face: for targets that can keep the blocks. */
export interface QuantisedTensor {
  /** ggml's name of the block format, e.g. `Q4_1`; layouts are in gguf/blocks/. */
  readonly format: string
  readonly shape: readonly number[]
  /** `count` whole rows from `first` on, each of columns / elements-per-block blocks. */
  rows(first: number, count: number): Promise<Uint8Array<ArrayBuffer>>
}

export interface GgufWeights extends ByteSource {
  /** The blocks of the tensor of this Hugging Face name; `undefined` where it is not quantised or there is none. */
  quantised(name: string): QuantisedTensor | undefined
}

/** True for the `source` of a tensor that comes from a GGUF. */
export function isGgufWeights(source: ByteSource): source is GgufWeights {
  return 'quantised' in source
}

/** `source` is closed with the result. Throws `InputError` where the heads do not fit the tensors. */
export function ggufWeights(source: ByteSource, named: readonly NamedTensor[], headDim: number): GgufWeights {
  for (const { stored, altered } of named) checkHeads(source, stored.name, stored.shape[0] as number, altered, headDim)
  const tensors = named.map((tensor) => storedFloats(tensor, headDim))
  const header = encodeHeader(tensors)
  const segments: Segment[] = [{ start: 0, end: header.length, read: async (from, to) => header.slice(from, to) }]
  let end = header.length
  for (const tensor of tensors) {
    segments.push({ start: end, end: end + tensor.bytes, read: (from, to) => tensor.read(source, from, to) })
    end += tensor.bytes
  }
  const byName = new Map(named.map((tensor) => [tensor.name, tensor]))
  return {
    name: source.name,
    size: end,
    read: (offset, length) => readSegments(source.name, segments, end, offset, length),
    close: () => source.close(),
    quantised(name) {
      const tensor = byName.get(name)
      // Blocks lie along the rows of the file: what is turned round, or counted from another zero, has none of its own.
      const keeps = tensor?.altered === undefined || tensor.altered === 'turned'
      return tensor === undefined || tensor.stored.format.elements === 1 || !keeps
        ? undefined
        : quantisedTensor(source, tensor, headDim)
    },
  }
}

function quantisedTensor(source: ByteSource, { stored, altered }: NamedTensor, headDim: number): QuantisedTensor {
  const { format, shape, offset, bytes } = stored
  const rowCount = shape[0] as number
  const rowBytes = bytes / rowCount
  const plain = (first: number, count: number) => source.read(offset + first * rowBytes, count * rowBytes)
  const turned = async (first: number, count: number) => {
    const start = first - (first % headDim)
    const whole = await plain(start, Math.min(Math.ceil((first + count) / headDim) * headDim, rowCount) - start)
    const out = new Uint8Array(count * rowBytes)
    for (let row = 0; row < count; row += 1) {
      const at = (turnedRow(first + row, headDim) - start) * rowBytes
      out.set(whole.subarray(at, at + rowBytes), row * rowBytes)
    }
    return out
  }
  return { format: format.name, shape, rows: altered === 'turned' ? turned : plain }
}

interface Segment {
  readonly start: number
  readonly end: number
  read(from: number, to: number): Promise<Uint8Array<ArrayBuffer>>
}

async function readSegments(
  name: string,
  segments: readonly Segment[],
  size: number,
  offset: number,
  length: number,
): Promise<Uint8Array<ArrayBuffer>> {
  const to = offset + length
  if (offset < 0 || length < 0 || to > size) {
    throw new RangeError(`${name}: bytes ${offset}..${to} are outside the weights of ${size} bytes`)
  }
  const pieces = segments.filter(({ start, end }) => start < to && end > offset)
  const [only] = pieces
  if (only !== undefined && pieces.length === 1) return only.read(offset - only.start, to - only.start)
  const bytes = new Uint8Array(length)
  for (const { start, end, read } of pieces) {
    const from = Math.max(offset, start)
    bytes.set(await read(from - start, Math.min(to, end) - start), from - offset)
  }
  return bytes
}

function encodeHeader(tensors: readonly StoredFloats[]): Uint8Array<ArrayBuffer> {
  let end = 0
  const entries = tensors.map(({ name, dtype, shape, bytes }) => {
    end += bytes
    return [name, { dtype, shape, data_offsets: [end - bytes, end] }] as const
  })
  const json = new TextEncoder().encode(
    canonicalJson({ __metadata__: { format: 'pt' }, ...Object.fromEntries(entries) }),
  )
  const length = Math.ceil(json.length / HEADER_ALIGNMENT) * HEADER_ALIGNMENT
  const header = new Uint8Array(8 + length).fill(0x20)
  new DataView(header.buffer).setBigUint64(0, BigInt(length), true)
  header.set(json, 8)
  return header
}

function checkHeads(
  source: ByteSource,
  name: string,
  rows: number,
  altered: NamedTensor['altered'],
  headDim: number,
): void {
  if (altered !== 'turned') return
  if (Number.isInteger(headDim) && headDim >= 2 && headDim % 2 === 0 && rows % headDim === 0) return
  throw inputError(
    'tensor-shape',
    `${source.name}: tensor ${quote(name)} has ${rows} rows, which are no whole heads of ${headDim}; convert it again`,
  )
}
