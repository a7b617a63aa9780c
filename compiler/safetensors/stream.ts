// Tensor data in bounded pieces, so that memory does not grow with the model.

import { decodeFloats, ELEMENT_BYTES } from './decode.ts'
import { type FloatDtype, isFloatDtype } from './dtypes.ts'
import type { StoredTensor } from './read.ts'

/** Large enough that the cost of a read is its bytes, small enough to forget. A multiple of every element size. */
export const CHUNK_BYTES = 8 * 1024 * 1024

export type FloatTensorSource = StoredTensor & { readonly dtype: FloatDtype }

export function isFloatTensor(tensor: StoredTensor): tensor is FloatTensorSource {
  return isFloatDtype(tensor.dtype)
}

/** The tensor's bytes, front to back. */
export async function* readChunks(tensor: StoredTensor): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  for (let at = 0; at < tensor.bytes; at += CHUNK_BYTES) {
    yield await tensor.source.read(tensor.offset + at, Math.min(CHUNK_BYTES, tensor.bytes - at))
  }
}

/** The whole tensor as float32. */
export async function readFloats(tensor: FloatTensorSource): Promise<Float32Array<ArrayBuffer>> {
  return decodeFloats(await tensor.source.read(tensor.offset, tensor.bytes), tensor.dtype)
}

/** A stored matrix as blocks of whole rows, float32, the first row at `start`. */
export async function* readRows(
  tensor: FloatTensorSource,
): AsyncGenerator<{ start: number; values: Float32Array<ArrayBuffer> }> {
  const [rows = 0, columns = 0] = tensor.shape
  const rowBytes = columns * ELEMENT_BYTES[tensor.dtype]
  const step = Math.max(1, Math.floor(CHUNK_BYTES / rowBytes))
  for (let start = 0; start < rows; start += step) {
    const bytes = Math.min(step, rows - start) * rowBytes
    yield {
      start,
      values: decodeFloats(await tensor.source.read(tensor.offset + start * rowBytes, bytes), tensor.dtype),
    }
  }
}

/**
 * Wᵀ of a stored W [rows, columns], as blocks of whole rows of Wᵀ: each is float32 [n, rows], the first row at `start`.
 * The stored bytes are held at once; the float32 form never is.
 */
export async function* readTransposed(
  tensor: FloatTensorSource,
): AsyncGenerator<{ start: number; values: Float32Array<ArrayBuffer> }> {
  const [rows = 0, columns = 0] = tensor.shape
  const stored = await tensor.source.read(tensor.offset, tensor.bytes)
  const rowBytes = columns * ELEMENT_BYTES[tensor.dtype]
  const step = Math.max(1, Math.floor(CHUNK_BYTES / (4 * rows)))
  for (let start = 0; start < columns; start += step) {
    const n = Math.min(step, columns - start)
    const values = new Float32Array(n * rows)
    const from = start * ELEMENT_BYTES[tensor.dtype]
    for (let row = 0; row < rows; row += 1) {
      const at = row * rowBytes + from
      const piece = decodeFloats(stored.subarray(at, at + n * ELEMENT_BYTES[tensor.dtype]), tensor.dtype)
      for (let i = 0; i < n; i += 1) values[i * rows + row] = piece[i] as number
    }
    yield { start, values }
  }
}
