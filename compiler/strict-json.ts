// A JSON reader for untrusted files. `JSON.parse` keeps the last of duplicate keys, rounds integers beyond 2^53 and
// nests without bound; this one refuses all three, and its objects have no prototype, so `__proto__` is just a key.

export type Json = null | boolean | number | string | Json[] | JsonObject
export interface JsonObject {
  [key: string]: Json
}

/** `counts`: only unsigned decimal integers are numbers, as in a safetensors header. */
export type JsonNumbers = 'any' | 'counts'

/** Deeper than any file we read; recursion stays far from the end of the stack. */
const MAX_DEPTH = 64

const NUMBER = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/y
const WORDS: readonly (readonly [string, null | boolean])[] = [
  ['null', null],
  ['true', true],
  ['false', false],
]
const ESCAPES: Readonly<Record<string, string>> = {
  '"': '"',
  '\\': '\\',
  '/': '/',
  b: '\b',
  f: '\f',
  n: '\n',
  r: '\r',
  t: '\t',
}

/** What is wrong and where; callers add the file's name. */
export class JsonError extends Error {
  override readonly name = 'JsonError'
}

/** Parses one JSON value with nothing but whitespace around it. Throws `JsonError`. */
export function parseJson(text: string, numbers: JsonNumbers = 'any'): Json {
  return new Scanner(text, numbers).document()
}

class Scanner {
  readonly #text: string
  readonly #numbers: JsonNumbers
  #at = 0

  constructor(text: string, numbers: JsonNumbers) {
    this.#text = text
    this.#numbers = numbers
  }

  document(): Json {
    const value = this.#value(0)
    this.#space()
    if (this.#at < this.#text.length) this.#fail('text after the end of the value')
    return value
  }

  #value(depth: number): Json {
    if (depth > MAX_DEPTH) this.#fail(`nesting deeper than ${MAX_DEPTH}`)
    this.#space()
    const next = this.#text[this.#at]
    if (next === '{') return this.#object(depth)
    if (next === '[') return this.#array(depth)
    if (next === '"') return this.#string()
    for (const [word, value] of WORDS) {
      if (this.#text.startsWith(word, this.#at)) {
        this.#at += word.length
        return value
      }
    }
    return this.#number()
  }

  #object(depth: number): JsonObject {
    const object: JsonObject = Object.create(null)
    this.#at += 1
    if (this.#takes('}')) return object
    do {
      this.#space()
      if (this.#text[this.#at] !== '"') this.#fail('expected a key')
      const key = this.#string()
      if (Object.hasOwn(object, key)) this.#fail(`duplicate key ${JSON.stringify(key.slice(0, 200))}`)
      if (!this.#takes(':')) this.#fail('expected ":"')
      object[key] = this.#value(depth + 1)
    } while (this.#takes(','))
    if (!this.#takes('}')) this.#fail('expected "," or "}"')
    return object
  }

  #array(depth: number): Json[] {
    const array: Json[] = []
    this.#at += 1
    if (this.#takes(']')) return array
    do array.push(this.#value(depth + 1))
    while (this.#takes(','))
    if (!this.#takes(']')) this.#fail('expected "," or "]"')
    return array
  }

  #string(): string {
    this.#at += 1
    let result = ''
    let from = this.#at
    for (;;) {
      const code = this.#text.charCodeAt(this.#at)
      if (code === 0x22) break
      if (Number.isNaN(code)) this.#fail('the string does not end')
      if (code < 0x20) this.#fail('a control character inside a string')
      if (code === 0x5c) {
        result += this.#text.slice(from, this.#at) + this.#escape()
        from = this.#at
      } else this.#at += 1
    }
    result += this.#text.slice(from, this.#at)
    this.#at += 1
    if (!result.isWellFormed()) this.#fail('half of a surrogate pair')
    return result
  }

  #escape(): string {
    const letter = this.#text[this.#at + 1] ?? ''
    const hex = this.#text.slice(this.#at + 2, this.#at + 6)
    if (letter === 'u' && /^[0-9a-fA-F]{4}$/.test(hex)) {
      this.#at += 6
      return String.fromCharCode(Number.parseInt(hex, 16))
    }
    const plain = Object.hasOwn(ESCAPES, letter) ? ESCAPES[letter] : undefined
    if (plain === undefined) return this.#fail('an unknown escape')
    this.#at += 2
    return plain
  }

  #number(): number {
    NUMBER.lastIndex = this.#at
    const match = NUMBER.exec(this.#text)
    if (match === null)
      return this.#fail(this.#at < this.#text.length ? 'an unexpected character' : 'it ends too early')
    const [token, fraction, exponent] = match
    const integer = fraction === undefined && exponent === undefined
    const value = Number(token)
    if (integer ? !Number.isSafeInteger(value) : !Number.isFinite(value)) this.#fail(`the number ${token.slice(0, 40)}`)
    if (this.#numbers === 'counts' && (!integer || token.startsWith('-'))) {
      this.#fail(`${token.slice(0, 40)} where an unsigned integer belongs`)
    }
    this.#at += token.length
    return value
  }

  #takes(mark: string): boolean {
    this.#space()
    if (this.#text[this.#at] !== mark) return false
    this.#at += 1
    return true
  }

  #space(): void {
    for (;;) {
      const code = this.#text.charCodeAt(this.#at)
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return
      this.#at += 1
    }
  }

  #fail(what: string): never {
    throw new JsonError(`${what} at character ${this.#at}`)
  }
}
