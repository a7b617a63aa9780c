// Characters and character sets of Python's `re`, as tests of a code point.
import { quote } from '../../errors.ts'
import { PatternError } from './pattern-error.ts'

export type CharTest = (code: number) => boolean

const isDigit = matches(/\p{Nd}/u)
// Python: isalnum() or "_".
const isWord = matches(/[\p{L}\p{N}_]/u)
const space = matches(/\s/u)
// Python counts five control characters that JavaScript does not, and not the byte order mark.
const isSpace = (code: number) => (space(code) && code !== 0xfeff) || (code >= 0x1c && code <= 0x1f) || code === 0x85

/** By the letter after the backslash. */
export const CLASSES: ReadonlyMap<string, CharTest> = new Map([
  ['d', isDigit],
  ['D', not(isDigit)],
  ['w', isWord],
  ['W', not(isWord)],
  ['s', isSpace],
  ['S', not(isSpace)],
])

const CONTROLS: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t', f: '\f', v: '\v', a: '\x07' }

/** What `\next` stands for; `undefined` where that is no plain character. Letters and digits without a meaning have none. */
export function escapedChar(next: string): string | undefined {
  if (Object.hasOwn(CONTROLS, next)) return CONTROLS[next]
  return /^[A-Za-z0-9]$/.test(next) ? undefined : next
}

/** A word character, for `\b`; there is none beyond the ends. */
export function isWordChar(code: number | undefined): boolean {
  return code !== undefined && isWord(code)
}

/** The set whose "[" is before `start`. Throws `PatternError`. */
export function parseSet(chars: readonly string[], start: number): { test: CharTest; end: number } {
  let at = start
  const negated = chars[at] === '^'
  if (negated) at += 1
  const tests: CharTest[] = []
  const first = at
  // A "]" that comes first is a member.
  while (chars[at] !== ']' || at === first) {
    const low = member(chars, at)
    at = low.end
    if (chars[at] !== '-' || chars[at + 1] === ']' || chars[at + 1] === undefined) {
      tests.push(typeof low.is === 'number' ? equals(low.is) : low.is)
      continue
    }
    const high = member(chars, at + 1)
    at = high.end
    if (typeof low.is !== 'number' || typeof high.is !== 'number' || low.is > high.is) {
      throw new PatternError(`it has a bad range in the set at character ${start}`)
    }
    tests.push(between(low.is, high.is))
  }
  const test = (code: number) => tests.some((one) => one(code)) !== negated
  return { test, end: at + 1 }
}

function member(chars: readonly string[], at: number): { is: number | CharTest; end: number } {
  const char = chars[at]
  if (char === undefined) throw new PatternError('it has a set without its "]"')
  if (char !== '\\') return { is: char.codePointAt(0) as number, end: at + 1 }
  const next = chars[at + 1]
  if (next === undefined) throw new PatternError('it has a "\\" at its end')
  const test = CLASSES.get(next)
  if (test !== undefined) return { is: test, end: at + 2 }
  // In a set, and only there, \b is a backspace.
  const escaped = next === 'b' ? '\b' : escapedChar(next)
  if (escaped === undefined) throw new PatternError(`it has the escape ${quote(`\\${next}`)}`)
  return { is: escaped.codePointAt(0) as number, end: at + 2 }
}

function equals(wanted: number): CharTest {
  return (code) => code === wanted
}

function between(low: number, high: number): CharTest {
  return (code) => low <= code && code <= high
}

function not(test: CharTest): CharTest {
  return (code) => !test(code)
}

function matches(pattern: RegExp): CharTest {
  return (code) => pattern.test(String.fromCodePoint(code))
}
