// Walks the header of a file front to back, holding a window of it: what is asked of the file stays near what it has.
import { inputError } from '../errors.ts'
import type { ByteSource } from '../host.ts'
import { MAX_HEADER_BYTES } from './limits.ts'

const WINDOW_BYTES = 256 * 1024

export class Cursor {
  readonly #source: ByteSource
  readonly #utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  #bytes: Uint8Array<ArrayBuffer> = new Uint8Array()
  #view = new DataView(this.#bytes.buffer)
  /** Of the window's first byte in the file. */
  #start = 0
  #at = 0

  constructor(source: ByteSource) {
    this.#source = source
  }

  get position(): number {
    return this.#start + this.#at
  }

  /** Bytes that the header may still take. */
  get left(): number {
    return Math.min(this.#source.size, MAX_HEADER_BYTES) - this.position
  }

  /** True where `length` bytes must be fetched first; only then is the `await` of `fetch` worth its turn. */
  lacks(length: number): boolean {
    return this.#at + length > this.#bytes.length
  }

  /** Throws `InputError` where the file, or what a header may be, ends sooner. */
  async fetch(length: number, what: string): Promise<void> {
    if (!this.lacks(length)) return
    if (length > this.left) {
      const bound = this.#source.size <= MAX_HEADER_BYTES ? 'the file ends' : `a header has at most ${MAX_HEADER_BYTES}`
      this.fail(`${what} at byte ${this.position} takes ${length} bytes but ${bound}; download it again`)
    }
    const rest = this.#bytes.subarray(this.#at)
    const end = Math.min(this.position + Math.max(length, WINDOW_BYTES), this.#source.size)
    const from = this.position + rest.length
    const bytes = new Uint8Array(end - this.position)
    bytes.set(rest)
    bytes.set(await this.#source.read(from, end - from), rest.length)
    this.#start = this.position
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer)
    this.#at = 0
  }

  /** `length` bytes, already fetched; the view is good until the next fetch. */
  bytes(length: number): Uint8Array<ArrayBuffer> {
    this.#at += length
    return this.#bytes.subarray(this.#at - length, this.#at)
  }

  u32(): number {
    this.#at += 4
    return this.#view.getUint32(this.#at - 4, true)
  }

  /** A count or an offset: refused where it is beyond 2^53. */
  u64(what: string): number {
    this.#at += 8
    const value = this.#view.getBigUint64(this.#at - 8, true)
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) this.fail(`${what} is ${value}; no file is that large`)
    return Number(value)
  }

  async string(what: string, maxBytes: number): Promise<string> {
    if (this.lacks(8)) await this.fetch(8, what)
    const length = this.u64(`the length of ${what}`)
    if (length > maxBytes) this.fail(`${what} has ${length} bytes; at most ${maxBytes} are read`)
    if (this.lacks(length)) await this.fetch(length, what)
    const bytes = this.bytes(length)
    try {
      return this.#utf8.decode(bytes)
    } catch {
      return this.fail(`${what} is not UTF-8; convert the model again`)
    }
  }

  fail(what: string): never {
    throw inputError('gguf-invalid', `${this.#source.name}: ${what}`)
  }
}
