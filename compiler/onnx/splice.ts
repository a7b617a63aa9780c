// Protobuf by the byte: a message as the fields it was written with, so that what is not changed is written as it was,
// unknown fields included.
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import { inputError } from '../errors.ts'

export interface RawField {
  readonly number: number
  /** Tag, length and payload: what a copy writes. */
  readonly raw: Uint8Array
  /** Of a field with a length; empty for a number. */
  readonly payload: Uint8Array
}

const NONE = new Uint8Array()

/** The fields of a message in order. Throws `InputError` (`onnx-invalid`) where the bytes are not protobuf. */
export function rawFields(bytes: Uint8Array, file: string): RawField[] {
  const fields: RawField[] = []
  const reader = new BinaryReader(bytes)
  try {
    while (reader.pos < reader.len) {
      const start = reader.pos
      const [number, wireType] = reader.tag()
      let payload: Uint8Array = NONE
      if (wireType === WireType.LengthDelimited) payload = reader.bytes()
      else reader.skip(wireType)
      fields.push({ number, raw: bytes.subarray(start, reader.pos), payload })
    }
  } catch (error) {
    throw inputError('onnx-invalid', `${file}: not protobuf, or cut short (${String(error)})`)
  }
  return fields
}

/** A field with a length around `payload`. */
export function field(number: number, payload: Uint8Array | string): Uint8Array {
  const bytes = typeof payload === 'string' ? new TextEncoder().encode(payload) : payload
  const head = new BinaryWriter().tag(number, WireType.LengthDelimited).uint32(bytes.length).finish()
  return concatBytes([head, bytes])
}

export function varintField(number: number, value: number): Uint8Array {
  return new BinaryWriter().tag(number, WireType.Varint).int64(value).finish()
}

export function concatBytes(parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(parts.reduce((total, part) => total + part.length, 0))
  let at = 0
  for (const part of parts) {
    bytes.set(part, at)
    at += part.length
  }
  return bytes
}
