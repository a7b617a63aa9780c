// Bounded access to an untrusted protobuf file: one message's fields, front to back, and where each of them is.
// Wire format: protobuf.dev/programming-guides/encoding.
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire'
import { InputError, inputError } from '../errors.ts'

/** Graphs of a hundred thousand nodes have 2 million fields; a hostile file of 2 GB could have a thousand million. */
const MAX_FIELDS = 2 ** 24
/** Names in public models stay below 300 bytes. */
const MAX_NAME_BYTES = 4096

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

export interface Field {
  readonly number: number
  /** A varint as int64, rounded beyond 2^53; or the bytes of what has a length or a fixed size. */
  readonly value: number | Uint8Array
}

export interface OnnxBytes {
  readonly name: string
  readonly bytes: Uint8Array
  /** Fields read so far, in all messages of the file. */
  fields: number
}

export class Message {
  readonly #file: OnnxBytes
  readonly #bytes: Uint8Array

  constructor(file: OnnxBytes, bytes: Uint8Array = file.bytes) {
    this.#file = file
    this.#bytes = bytes
  }

  fail(what: string, at = 0): never {
    const byte = this.#bytes.byteOffset - this.#file.bytes.byteOffset + at
    throw inputError('onnx-invalid', `${this.#file.name}: at byte ${byte}: ${what}`)
  }

  *fields(): Generator<Field> {
    const reader = new BinaryReader(this.#bytes)
    while (reader.pos < reader.len) {
      this.#file.fields += 1
      if (this.#file.fields > MAX_FIELDS) this.fail(`more than ${MAX_FIELDS} protobuf fields`, reader.pos)
      yield this.#next(reader)
    }
  }

  /** The message that a field holds. */
  child({ value }: Field, what: string): Message {
    return new Message(this.#file, this.bytes({ value }, what))
  }

  bytes({ value }: Pick<Field, 'value'>, what: string): Uint8Array {
    return typeof value === 'number' ? this.fail(`${what} is a number`) : value
  }

  text(field: Field, what: string): string {
    const bytes = this.bytes(field, what)
    if (bytes.length > MAX_NAME_BYTES) this.fail(`${what} has ${bytes.length} bytes; at most ${MAX_NAME_BYTES}`)
    try {
      return utf8.decode(bytes)
    } catch {
      return this.fail(`${what} is not UTF-8`)
    }
  }

  /** A count or a code: a whole number from 0 to 2^53 - 1. */
  count({ value }: Field, what: string): number {
    if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value
    return this.fail(`${what} is ${typeof value === 'number' ? value : 'no number'}; 0 to 2^53 - 1 are read`)
  }

  /** A repeated number: one, or several in one field, at most `most`. */
  counts(field: Field, what: string, most: number): number[] {
    if (typeof field.value === 'number') return [this.count(field, what)]
    const numbers: number[] = []
    const reader = new BinaryReader(field.value)
    while (reader.pos < reader.len) {
      if (numbers.length === most) this.fail(`more than ${most} numbers in ${what}`)
      numbers.push(this.count({ number: field.number, value: this.#varint(reader) }, what))
    }
    return numbers
  }

  #next(reader: BinaryReader): Field {
    const start = reader.pos
    try {
      const [number, wireType] = reader.tag()
      switch (wireType) {
        case WireType.Varint:
          return { number, value: Number(reader.int64()) }
        case WireType.LengthDelimited:
          return { number, value: reader.bytes() }
        case WireType.Bit32:
        case WireType.Bit64:
          return { number, value: reader.skip(wireType) }
        default:
          // Groups nest without bound, and ONNX has none.
          return this.fail(`field ${number} has the wire type ${wireType}, which ONNX does not use`, start)
      }
    } catch (error) {
      return this.#refuse(error, start)
    }
  }

  #varint(reader: BinaryReader): number {
    const start = reader.pos
    try {
      return Number(reader.int64())
    } catch (error) {
      return this.#refuse(error, start)
    }
  }

  /** What the codec throws is about the bytes; what this file throws says so already. */
  #refuse(error: unknown, at: number): never {
    if (error instanceof InputError) throw error
    this.fail(`not protobuf, or cut short (${error instanceof Error ? error.message : String(error)})`, at)
  }
}
