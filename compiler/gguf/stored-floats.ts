// A tensor of a GGUF as the floats of the Hugging Face checkpoint, any stretch of it, in memory that the stretch bounds.
import type { ByteSource } from '../host.ts'
import { ELEMENT_BYTES } from '../safetensors/decode.ts'
import type { FloatDtype } from '../safetensors/dtypes.ts'
import type { BlockFormat } from './blocks/block-format.ts'
import type { NamedTensor } from './name-tensors.ts'

/** Of a matrix that is to be turned round, what is read at once; a stretch of it has a part of every row of the file. */
const TRANSPOSE_BYTES = 1 << 22

type ReadStretch = (source: ByteSource, from: number, to: number) => Promise<Uint8Array<ArrayBuffer>>

export interface StoredFloats {
  readonly name: string
  readonly dtype: FloatDtype
  readonly shape: readonly number[]
  readonly bytes: number
  /** Bytes [from, to) of the tensor as stored floats. */
  readonly read: ReadStretch
}

/** `headDim`: rows of a head, for tensors whose heads are turned. */
export function storedFloats({ name, stored, altered }: NamedTensor, headDim: number): StoredFloats {
  const dtype = dtypeOf(stored.format, altered)
  const size = ELEMENT_BYTES[dtype]
  const columns = stored.shape.slice(1).reduce((product, n) => product * n, 1)
  const rows = stored.shape[0] as number
  const plain = readPlain(stored.offset, stored.format, dtype)
  const read = {
    turned: () => readTurned(plain, rows, columns * size, headDim),
    'one-plus': () => readMinusOne(plain),
    transposed: () => readTransposed(plain, rows, columns, size),
  }
  return {
    name,
    dtype,
    shape: altered === 'transposed' ? [columns, rows] : stored.shape,
    bytes: rows * columns * size,
    read: altered === undefined ? plain : read[altered](),
  }
}

/** Where the conversion put this row: row (p, i) of a head, p the half and i the place in it, became row 2·i + p. */
export function turnedRow(row: number, headDim: number): number {
  const within = row % headDim
  const half = headDim / 2
  return row - within + (within < half ? 2 * within : 2 * (within - half) + 1)
}

function readPlain(offset: number, format: BlockFormat, dtype: FloatDtype): ReadStretch {
  const size = ELEMENT_BYTES[dtype]
  return async (source, from, to) => {
    const start = Math.floor(from / size / format.elements)
    const end = Math.ceil(to / size / format.elements)
    const blocks = await source.read(offset + start * format.bytes, (end - start) * format.bytes)
    const floats = dtype === 'F32' ? decode(format, blocks) : blocks
    const at = start * format.elements * size
    return floats.subarray(from - at, to - at)
  }
}

function readTurned(plain: ReadStretch, rows: number, rowBytes: number, headDim: number): ReadStretch {
  return async (source, from, to) => {
    const first = Math.floor(from / rowBytes)
    const last = Math.ceil(to / rowBytes)
    const start = Math.floor(first / headDim) * headDim
    const whole = await plain(source, start * rowBytes, Math.min(Math.ceil(last / headDim) * headDim, rows) * rowBytes)
    const out = new Uint8Array((last - first) * rowBytes)
    for (let row = first; row < last; row += 1) {
      const at = (turnedRow(row, headDim) - start) * rowBytes
      out.set(whole.subarray(at, at + rowBytes), (row - first) * rowBytes)
    }
    return out.subarray(from - first * rowBytes, to - first * rowBytes)
  }
}

/** The sum was rounded to float32; from ½ to 2, as norms are, taking 1 off is exact. */
function readMinusOne(plain: ReadStretch): ReadStretch {
  return async (source, from, to) => {
    const first = from - (from % 4)
    const last = to + ((4 - (to % 4)) % 4)
    const floats = new Float32Array(new Uint8Array(await plain(source, first, last)).buffer)
    for (let i = 0; i < floats.length; i += 1) floats[i] = (floats[i] as number) - 1
    return new Uint8Array(floats.buffer).subarray(from - first, to - first)
  }
}

/** Of `rows`·`columns` in the file; row c of what comes out is column c of the file. */
function readTransposed(plain: ReadStretch, rows: number, columns: number, size: number): ReadStretch {
  return async (source, from, to) => {
    const outBytes = rows * size
    const first = Math.floor(from / outBytes)
    const last = Math.ceil(to / outBytes)
    const out = new Uint8Array((last - first) * outBytes)
    const atOnce = Math.max(1, Math.floor(TRANSPOSE_BYTES / (columns * size)))
    for (let row = 0; row < rows; row += atOnce) {
      const end = Math.min(row + atOnce, rows)
      const part = await plain(source, row * columns * size, end * columns * size)
      for (let r = row; r < end; r += 1) {
        for (let c = first; c < last; c += 1) {
          const at = ((r - row) * columns + c) * size
          const to = (c - first) * outBytes + r * size
          for (let byte = 0; byte < size; byte += 1) out[to + byte] = part[at + byte] as number
        }
      }
    }
    return out.subarray(from - first * outBytes, to - first * outBytes)
  }
}

/** Halves stay as they are; whatever is quantised becomes F32, which holds every value exactly as ggml computes it. */
function dtypeOf(format: BlockFormat, altered: NamedTensor['altered']): FloatDtype {
  return altered !== 'one-plus' && (format.name === 'F16' || format.name === 'BF16') ? format.name : 'F32'
}

function decode(format: BlockFormat, blocks: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  if (format.name === 'F32') return blocks
  const floats = new Float32Array((blocks.length / format.bytes) * format.elements)
  format.dequantise(blocks, floats)
  return new Uint8Array(floats.buffer)
}
