// The key-value pairs of a GGUF header. Types: github.com/ggml-org/ggml, docs/gguf.md.
import { inputError, quote } from '../errors.ts'
import type { Cursor } from './cursor.ts'
import { MAX_STRING_BYTES } from './limits.ts'

export type Numbers =
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | Float64Array
  | BigUint64Array
  | BigInt64Array

export type MetadataValue = number | bigint | boolean | string | readonly string[] | Numbers

const BOOL = 7
const STRING = 8
const ARRAY = 9

interface NumberType {
  readonly bytes: number
  /** An own copy of whole elements, little-endian. */
  decode(bytes: Uint8Array<ArrayBuffer>): Numbers
}

const NUMBERS: ReadonlyMap<number, NumberType> = new Map([
  [0, { bytes: 1, decode: (bytes) => bytes }],
  [1, { bytes: 1, decode: ({ buffer }) => new Int8Array(buffer) }],
  [2, { bytes: 2, decode: ({ buffer }) => new Uint16Array(buffer) }],
  [3, { bytes: 2, decode: ({ buffer }) => new Int16Array(buffer) }],
  [4, { bytes: 4, decode: ({ buffer }) => new Uint32Array(buffer) }],
  [5, { bytes: 4, decode: ({ buffer }) => new Int32Array(buffer) }],
  [6, { bytes: 4, decode: ({ buffer }) => new Float32Array(buffer) }],
  [BOOL, { bytes: 1, decode: (bytes) => bytes }],
  [10, { bytes: 8, decode: ({ buffer }) => new BigUint64Array(buffer) }],
  [11, { bytes: 8, decode: ({ buffer }) => new BigInt64Array(buffer) }],
  [12, { bytes: 8, decode: ({ buffer }) => new Float64Array(buffer) }],
] satisfies [number, NumberType][])

/** One value of the type that stands before it. Throws `InputError`. */
export async function readValue(cursor: Cursor, key: string): Promise<MetadataValue> {
  const what = `the value of ${quote(key)}`
  await cursor.fetch(4, what)
  const type = cursor.u32()
  if (type === STRING) return cursor.string(what, MAX_STRING_BYTES)
  if (type === ARRAY) return readArray(cursor, what)
  const number = NUMBERS.get(type)
  if (number === undefined) return cursor.fail(`${what} has the unknown type ${type}`)
  await cursor.fetch(number.bytes, what)
  const [value = 0] = number.decode(new Uint8Array(cursor.bytes(number.bytes)))
  if (type === BOOL) {
    if (value !== 0 && value !== 1) cursor.fail(`${what} is a boolean of ${value}`)
    return value === 1
  }
  if (typeof value === 'bigint' && BigInt.asIntN(54, value) === value) return Number(value)
  return value
}

async function readArray(cursor: Cursor, what: string): Promise<readonly string[] | Numbers> {
  await cursor.fetch(12, what)
  const type = cursor.u32()
  const count = cursor.u64(`the length of ${what}`)
  const number = NUMBERS.get(type)
  if (number !== undefined) {
    // Before the product: a count of 2^52 would still be a number after it, but no file has so many.
    if (count * number.bytes > cursor.left) cursor.fail(`${what} has ${count} elements but the file ends`)
    await cursor.fetch(count * number.bytes, what)
    return number.decode(new Uint8Array(cursor.bytes(count * number.bytes)))
  }
  if (type !== STRING) return cursor.fail(`${what} is a list of type ${type}; lists of numbers and strings are read`)
  if (count * 8 > cursor.left) cursor.fail(`${what} has ${count} strings but the file ends`)
  const strings: string[] = []
  for (let i = 0; i < count; i += 1) strings.push(await cursor.string(`string ${i} of ${what}`, MAX_STRING_BYTES))
  return strings
}

/** Typed access; what is there in another type is an error, what is absent is `undefined`. */
export class Metadata {
  readonly #file: string
  readonly #values: ReadonlyMap<string, MetadataValue>

  constructor(file: string, values: ReadonlyMap<string, MetadataValue>) {
    this.#file = file
    this.#values = values
  }

  get file(): string {
    return this.#file
  }

  has(key: string): boolean {
    return this.#values.has(key)
  }

  entries(): Iterable<readonly [string, MetadataValue]> {
    return this.#values
  }

  string(key: string): string | undefined {
    const value = this.#values.get(key)
    return value === undefined || typeof value === 'string' ? value : this.#wrong(key, 'a string')
  }

  boolean(key: string): boolean | undefined {
    const value = this.#values.get(key)
    return value === undefined || typeof value === 'boolean' ? value : this.#wrong(key, 'a boolean')
  }

  number(key: string): number | undefined {
    const value = this.#values.get(key)
    if (value === undefined || (typeof value === 'number' && Number.isFinite(value))) return value
    return this.#wrong(key, 'a finite number')
  }

  strings(key: string): readonly string[] | undefined {
    const value = this.#values.get(key)
    return value === undefined || isStrings(value) ? value : this.#wrong(key, 'a list of strings')
  }

  numbers(key: string): readonly number[] | undefined {
    const value = this.#values.get(key)
    if (value === undefined) return undefined
    if (typeof value !== 'object' || isStrings(value)) return this.#wrong(key, 'a list of numbers')
    return Array.from(value as Float64Array, Number)
  }

  /** As the others, and absent is an error as well. */
  need<T>(key: string, read: (key: string) => T | undefined): T {
    const value = read.call(this, key)
    if (value !== undefined) return value
    throw inputError('gguf-invalid', `${this.#file}: ${quote(key)} is missing; convert the model again`)
  }

  #wrong(key: string, wanted: string): never {
    throw inputError('gguf-invalid', `${this.#file}: ${quote(key)} is not ${wanted}; convert the model again`)
  }
}

function isStrings(value: MetadataValue): value is readonly string[] {
  return Array.isArray(value)
}
