// The blocks of one tensor → the parts of its quantised form, streaming: what there is per block is kept until it is written.
import { inputError } from '../errors.ts'
import type { QuantisedTensor } from '../gguf/weights-source.ts'
import type { Carrier, Unpacked } from './carry.ts'
import type { Part } from './place.ts'
import type { LayerError } from './stream.ts'

/** Weights at a time: their codes take 2 MB. */
const CHUNK_WEIGHTS = 1024 * 1024
const INFINITE_HALF = 0x7c00

/** Yields the codes first, then the other parts whole. Throws `InputError` for a scale that is not finite. */
export async function* carryTensor(
  { shape, rows }: QuantisedTensor,
  module: string,
  carrier: Carrier,
  onDone: (layer: LayerError) => void,
): AsyncGenerator<{ part: Part; bytes: Uint8Array }> {
  const [out = 0, inSize = 0] = shape
  const { block, elements, bytes: blockBytes, affine, storage } = carrier
  const weights = out * inSize
  const perBlock = elements / block
  const scales = floats(carrier, weights / block)
  const offsets = floats(carrier, affine ? weights / block : 0)
  const atOnce = Math.max(1, Math.floor(CHUNK_WEIGHTS / inSize))
  let bytes = 0
  const made = (part: Part, piece: Uint8Array) => {
    bytes += piece.length
    return { part, bytes: piece }
  }
  for (let first = 0; first < out; first += atOnce) {
    const count = Math.min(atOnce, out - first)
    const blocks = await rows(first, count)
    const start = (first * inSize) / block
    const end = start + (count * inSize) / block
    const to: Unpacked = {
      codes: new Int16Array(count * inSize),
      scales: scales.subarray(start, end),
      offsets: affine ? offsets.subarray(start, end) : offsets,
    }
    for (let at = 0, index = 0; at < blocks.length; at += blockBytes, index += 1) carrier.unpack(blocks, at, to, index)
    yield made('codes', pack(to.codes, carrier))
  }
  checkFinite(scales, module, perBlock)
  checkFinite(offsets, module, perBlock)
  yield made('scales', asBytes(scales))
  if (affine) yield made('offsets', asBytes(offsets))
  onDone({ module, storage, relativeError: 0, weights, bytes })
}

function floats({ scales }: Carrier, count: number): Unpacked['scales'] {
  return scales === 'float16' ? new Uint16Array(count) : new Float32Array(count)
}

function pack(codes: Int16Array, { bits }: Carrier): Uint8Array {
  if (bits === 8) {
    const bytes = new Uint8Array(codes.length)
    for (let i = 0; i < bytes.length; i += 1) bytes[i] = (codes[i] as number) + 128
    return bytes
  }
  const bytes = new Uint8Array(codes.length / 2)
  for (let i = 0; i < bytes.length; i += 1) {
    bytes[i] = ((codes[2 * i] as number) + 8) | (((codes[2 * i + 1] as number) + 8) << 4)
  }
  return bytes
}

function checkFinite(values: Unpacked['scales'], module: string, perBlock: number): void {
  const bad =
    values instanceof Uint16Array
      ? values.findIndex((value) => (value & INFINITE_HALF) === INFINITE_HALF)
      : values.findIndex((value) => !Number.isFinite(value))
  if (bad < 0) return
  throw inputError(
    'tensor-not-finite',
    `${module}: block ${Math.floor(bad / perBlock)} has a scale or an offset that is not finite; convert the model again`,
  )
}

function asBytes(values: Unpacked['scales']): Uint8Array<ArrayBuffer> {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
}
