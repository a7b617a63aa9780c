// Parses the subset of Python's `re` that adapter configs use. What is not in it is refused by name, never guessed:
// look-behind, back-references, flags, atomic groups and possessive quantifiers.
import { quote } from '../../errors.ts'
import { type CharTest, CLASSES, escapedChar, parseSet } from './chars.ts'
import { PatternError } from './pattern-error.ts'

/** The longest patterns seen list every module of a model; memory and time follow from the size of the program. */
const MAX_PATTERN_CHARS = 65_536
/** Nobody nests deeper; recursion stays far from the end of the stack. */
const MAX_DEPTH = 64
/** A count in braces; a program repeats its body that many times. */
const MAX_COUNT = 1000

export type Place = 'start' | 'end' | 'very-end' | 'boundary' | 'no-boundary'
export type Node =
  | { readonly kind: 'char'; readonly test: CharTest }
  | { readonly kind: 'sequence'; readonly items: readonly Node[] }
  | { readonly kind: 'either'; readonly options: readonly Node[] }
  | { readonly kind: 'repeat'; readonly item: Node; readonly min: number; readonly max: number }
  | { readonly kind: 'place'; readonly place: Place }
  /** (?=…) and (?!…): no character is consumed. */
  | { readonly kind: 'ahead'; readonly item: Node; readonly negated: boolean }

/** Throws `PatternError`. */
export function parsePattern(source: string): Node {
  if (source.length > MAX_PATTERN_CHARS) {
    throw new PatternError(`it has ${source.length} characters; at most ${MAX_PATTERN_CHARS}`)
  }
  return new Parser(source).pattern()
}

const PLACES: Readonly<Record<string, Place>> = { A: 'start', Z: 'very-end', b: 'boundary', B: 'no-boundary' }
const COUNT = /\{(\d*)(,?)(\d*)\}/y

class Parser {
  readonly #chars: readonly string[]
  #at = 0

  constructor(source: string) {
    this.#chars = Array.from(source)
  }

  pattern(): Node {
    const node = this.#either(0)
    if (this.#at < this.#chars.length) this.#fail('an unbalanced ")"')
    return node
  }

  #either(depth: number): Node {
    if (depth > MAX_DEPTH) this.#fail(`groups nested deeper than ${MAX_DEPTH}`)
    const options = [this.#sequence(depth)]
    while (this.#take('|')) options.push(this.#sequence(depth))
    return options.length === 1 ? (options[0] as Node) : { kind: 'either', options }
  }

  #sequence(depth: number): Node {
    const items: Node[] = []
    for (;;) {
      const next = this.#chars[this.#at]
      if (next === undefined || next === '|' || next === ')') return { kind: 'sequence', items }
      items.push(this.#quantified(this.#atom(depth)))
    }
  }

  #atom(depth: number): Node {
    const next = this.#chars[this.#at] as string
    this.#at += 1
    if (next === '.') return { kind: 'char', test: (code) => code !== 0x0a }
    if (next === '^') return { kind: 'place', place: 'start' }
    if (next === '$') return { kind: 'place', place: 'end' }
    if (next === '(') return this.#group(depth)
    if (next === '[') {
      const { test, end } = parseSet(this.#chars, this.#at)
      this.#at = end
      return { kind: 'char', test }
    }
    if (next === '\\') return this.#escape()
    if (next === '*' || next === '+' || next === '?') return this.#fail(`nothing to repeat before ${quote(next)}`)
    return literal(next)
  }

  #escape(): Node {
    const next = this.#chars[this.#at]
    if (next === undefined) return this.#fail('a "\\" at its end')
    this.#at += 1
    const place = Object.hasOwn(PLACES, next) ? PLACES[next] : undefined
    if (place !== undefined) return { kind: 'place', place }
    const test = CLASSES.get(next)
    if (test !== undefined) return { kind: 'char', test }
    const char = escapedChar(next)
    return char === undefined ? this.#fail(`the escape ${quote(`\\${next}`)}`) : literal(char)
  }

  #group(depth: number): Node {
    let ahead: '=' | '!' | undefined
    if (this.#take('?')) {
      if (this.#take('=')) ahead = '='
      else if (this.#take('!')) ahead = '!'
      else if (this.#take('P')) this.#groupName()
      else if (!this.#take(':')) this.#fail(`the group ${quote(`(?${this.#chars[this.#at] ?? ''}`)}`)
    }
    const item = this.#either(depth + 1)
    if (!this.#take(')')) this.#fail('an unbalanced "("')
    return ahead === undefined ? item : { kind: 'ahead', item, negated: ahead === '!' }
  }

  #groupName(): void {
    if (!this.#take('<')) this.#fail('a reference to a named group')
    while (/^\w$/.test(this.#chars[this.#at] ?? '')) this.#at += 1
    if (!this.#take('>')) this.#fail('the name of a group')
  }

  #quantified(item: Node): Node {
    const counts = this.#counts()
    if (counts === undefined) return item
    if (item.kind === 'place') this.#fail('a repeated anchor')
    // Lazy or greedy: which match is found differs, whether there is one does not.
    if (this.#chars[this.#at] === '+') this.#fail('a possessive quantifier')
    this.#take('?')
    if (this.#counts() !== undefined) this.#fail('a repeated quantifier')
    return { kind: 'repeat', item, ...counts }
  }

  #counts(): { min: number; max: number } | undefined {
    if (this.#take('*')) return { min: 0, max: Number.POSITIVE_INFINITY }
    if (this.#take('+')) return { min: 1, max: Number.POSITIVE_INFINITY }
    if (this.#take('?')) return { min: 0, max: 1 }
    if (this.#chars[this.#at] !== '{') return undefined
    COUNT.lastIndex = 0
    // No count is longer; slicing keeps this linear.
    const found = COUNT.exec(this.#chars.slice(this.#at, this.#at + 16).join(''))
    const [text = '', low = '', comma = '', high = ''] = found ?? []
    // Python takes braces that hold no count as literal ones.
    if (found === null || text === '{}') return undefined
    if (comma === '' && low === '') return undefined
    this.#at += text.length
    const min = low === '' ? 0 : Number(low)
    const max = comma === '' ? min : high === '' ? Number.POSITIVE_INFINITY : Number(high)
    if (min > MAX_COUNT || (max !== Number.POSITIVE_INFINITY && max > MAX_COUNT)) {
      this.#fail(`the count ${quote(text)}; at most ${MAX_COUNT}`)
    }
    if (min > max) this.#fail(`the count ${quote(text)}, whose ends are the wrong way round`)
    return { min, max }
  }

  #take(char: string): boolean {
    if (this.#chars[this.#at] !== char) return false
    this.#at += 1
    return true
  }

  #fail(what: string): never {
    throw new PatternError(`it has ${what} at character ${this.#at}`)
  }
}

function literal(char: string): Node {
  const wanted = char.codePointAt(0)
  return { kind: 'char', test: (code) => code === wanted }
}
