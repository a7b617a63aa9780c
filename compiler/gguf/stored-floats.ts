// A tensor of a GGUF as the floats of the Hugging Face checkpoint, any stretch of it, in memory that the stretch bounds.
import type { ByteSource } from '../host.ts'
import { ELEMENT_BYTES } from '../safetensors/decode.ts'
import type { FloatDtype } from '../safetensors/dtypes.ts'
import type { BlockFormat } from './blocks/block-format.ts'
import type { NamedTensor } from './name-tensors.ts'

export interface StoredFloats {
  readonly name: string
  readonly dtype: FloatDtype
  readonly shape: readonly number[]
  readonly bytes: number
  /** Bytes [from, to) of the tensor as stored floats. */
  read(source: ByteSource, from: number, to: number): Promise<Uint8Array<ArrayBuffer>>
}

/** `headDim`: rows of a head, for tensors whose heads are turned. */
export function storedFloats({ name, stored, altered }: NamedTensor, headDim: number): StoredFloats {
  const { format } = stored
  const dtype = dtypeOf(format)
  const size = ELEMENT_BYTES[dtype]
  const columns = stored.shape.slice(1).reduce((product, n) => product * n, 1)
  const rows = stored.shape[0] as number
  const plain = async (source: ByteSource, from: number, to: number): Promise<Uint8Array<ArrayBuffer>> => {
    const start = Math.floor(from / size / format.elements)
    const end = Math.ceil(to / size / format.elements)
    const blocks = await source.read(stored.offset + start * format.bytes, (end - start) * format.bytes)
    const floats = dtype === 'F32' ? decode(format, blocks) : blocks
    const at = start * format.elements * size
    return floats.subarray(from - at, to - at)
  }
  const turned = async (source: ByteSource, from: number, to: number): Promise<Uint8Array<ArrayBuffer>> => {
    const rowBytes = columns * size
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
  return {
    name,
    dtype,
    shape: stored.shape,
    bytes: rows * columns * size,
    read: altered === 'turned' ? turned : plain,
  }
}

/** Where the conversion put this row: row (p, i) of a head, p the half and i the place in it, became row 2·i + p. */
export function turnedRow(row: number, headDim: number): number {
  const within = row % headDim
  const half = headDim / 2
  return row - within + (within < half ? 2 * within : 2 * (within - half) + 1)
}

/** Halves stay as they are; whatever is quantised becomes F32, which holds every value exactly as ggml computes it. */
function dtypeOf(format: BlockFormat): FloatDtype {
  return format.name === 'F16' || format.name === 'BF16' ? format.name : 'F32'
}

function decode(format: BlockFormat, blocks: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  if (format.name === 'F32') return blocks
  const floats = new Float32Array((blocks.length / format.bytes) * format.elements)
  format.dequantise(blocks, floats)
  return new Uint8Array(floats.buffer)
}
