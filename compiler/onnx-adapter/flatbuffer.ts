// Bounded access to an untrusted FlatBuffers file: nothing is read before its place and length are known to be inside.
// Layout: flatbuffers.dev/internals. Every position is an offset from the start of the file.
import { inputError } from '../errors.ts'
import { TABLE_FIELDS, VTABLE_ENTRY_BYTES, VTABLE_HEADER_BYTES, WORD_BYTES } from './format.ts'

const MAX_VTABLE_BYTES = VTABLE_HEADER_BYTES + TABLE_FIELDS * VTABLE_ENTRY_BYTES

/** Places of the fields of one table; `undefined` where the file leaves a field out. Each has 4 bytes, aligned to 4. */
export type Fields = readonly (number | undefined)[]

export interface Span {
  /** First element. */
  readonly at: number
  readonly count: number
}

export class FlatBuffer {
  readonly #bytes: Uint8Array<ArrayBuffer>
  readonly #view: DataView<ArrayBuffer>
  readonly #file: string
  #claimed = 0

  constructor(bytes: Uint8Array<ArrayBuffer>, file: string) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.#file = file
  }

  fail(at: number, what: string): never {
    throw inputError('onnx-adapter-invalid', `${this.#file}: at byte ${at}: ${what}`)
  }

  int32(at: number): number {
    return this.#view.getInt32(at, true)
  }

  /** A signed 64-bit integer, rounded where it is beyond 2^53: compare before use. */
  int64(at: number): number {
    return this.#view.getInt32(at + WORD_BYTES, true) * 2 ** 32 + this.#view.getUint32(at, true)
  }

  slice(at: number, bytes: number): Uint8Array<ArrayBuffer> {
    return this.#bytes.subarray(at, at + bytes)
  }

  /** Where the offset at `at`, a known place, points: forward, aligned, with 4 bytes inside the file. */
  follow(at: number, what: string): number {
    const offset = this.#view.getUint32(at, true)
    const target = at + offset
    if (offset === 0) this.fail(at, `the offset of ${what} is zero`)
    if (target % WORD_BYTES !== 0) this.fail(at, `the offset of ${what} leads to byte ${target}, not aligned to 4`)
    if (target + WORD_BYTES > this.#bytes.length) {
      this.fail(
        at,
        `the offset of ${what} leads to byte ${target}, outside the ${this.#bytes.length} bytes of the file`,
      )
    }
    return target
  }

  /** The vtable of the table at `at`, a result of `follow`, checked against both. */
  fields(at: number, what: string): Fields {
    const vtable = at - this.int32(at)
    if (vtable < 0 || vtable + VTABLE_HEADER_BYTES > this.#bytes.length) {
      this.fail(at, `the vtable of ${what} would be at byte ${vtable}, outside the file`)
    }
    if (vtable % VTABLE_ENTRY_BYTES !== 0) this.fail(vtable, `the vtable of ${what} is not aligned to 2`)
    const vtableBytes = this.#view.getUint16(vtable, true)
    const tableBytes = this.#view.getUint16(vtable + VTABLE_ENTRY_BYTES, true)
    if (vtableBytes > MAX_VTABLE_BYTES) {
      // A loop over the 32,765 fields that a shared vtable can declare, for each table, would also take minutes.
      this.fail(
        vtable,
        `${what} has fields beyond the ${TABLE_FIELDS} of format version 1; it is newer than this reader`,
      )
    }
    if (vtableBytes < VTABLE_HEADER_BYTES || vtableBytes % VTABLE_ENTRY_BYTES !== 0) {
      this.fail(vtable, `the vtable of ${what} has ${vtableBytes} bytes`)
    }
    if (vtable + vtableBytes > this.#bytes.length)
      this.fail(vtable, `the vtable of ${what} runs past the end of the file`)
    if (tableBytes < WORD_BYTES || at + tableBytes > this.#bytes.length) {
      this.fail(vtable, `${what} has ${tableBytes} bytes, which is too few or past the end of the file`)
    }
    this.#claim(at, tableBytes, what)
    return Array.from({ length: TABLE_FIELDS }, (_, index) => {
      const entry = vtable + VTABLE_HEADER_BYTES + index * VTABLE_ENTRY_BYTES
      const offset = entry < vtable + vtableBytes ? this.#view.getUint16(entry, true) : 0
      if (offset === 0) return undefined
      if (offset + WORD_BYTES > tableBytes || offset % WORD_BYTES !== 0) {
        this.fail(entry, `field ${index} of ${what} is at ${offset} of its ${tableBytes} bytes`)
      }
      return at + offset
    })
  }

  /** The vector at `at`, a result of `follow`. */
  vector(at: number, elementBytes: number, what: string): Span {
    const count = this.#view.getUint32(at, true)
    const start = at + WORD_BYTES
    // Below 2^35, so the arithmetic is exact.
    if (start + count * elementBytes > this.#bytes.length) {
      this.fail(at, `${what} has ${count} elements, past the end of the file; it was cut short, copy it again`)
    }
    if (start % elementBytes !== 0) this.fail(start, `${what} is not aligned to ${elementBytes}`)
    this.#claim(at, WORD_BYTES + count * elementBytes, what)
    return { at: start, count }
  }

  /** Bytes that no object before has claimed; together more than the file means that objects overlap. */
  #claim(at: number, bytes: number, what: string): void {
    this.#claimed += bytes
    if (this.#claimed > this.#bytes.length) {
      this.fail(at, `the objects up to ${what} need ${this.#claimed} bytes, more than the file has; they overlap`)
    }
  }
}
