// The strict JSON reader against JSON.parse where both accept, and against what it must refuse.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { canonicalJson, compareCodePoints } from '../../compiler/canonical-json.ts'
import { JsonError, parseJson } from '../../compiler/strict-json.ts'

const SEED = 20261123

describe('parseJson', () => {
  it('agrees with JSON.parse on everything that JSON.stringify writes', () => {
    // Refused on purpose: halves of surrogate pairs, and integers that a double may not hold.
    const isAcceptable = (text: string) => text.isWellFormed() && !/\\ud[89a-f]|\d{16}/i.test(text)
    fc.assert(
      fc.property(fc.json({ stringUnit: 'binary' }).filter(isAcceptable), (text) => {
        expect(JSON.stringify(parseJson(text))).toBe(JSON.stringify(JSON.parse(text)))
      }),
      { seed: SEED, numRuns: 1000 },
    )
  })

  it('throws JsonError, or gives what JSON.parse gives, for any text', () => {
    const pieces = fc.array(
      fc.constantFrom('{', '}', '[', ']', '"', ':', ',', '\\', 'u00e9', '-', '0', '1', '.', 'e', 'null', ' ', 'a'),
    )
    fc.assert(
      fc.property(pieces, (parts) => {
        const text = parts.join('')
        try {
          expect(JSON.stringify(parseJson(text))).toBe(JSON.stringify(JSON.parse(text)))
        } catch (error) {
          expect(error).toBeInstanceOf(JsonError)
        }
      }),
      { seed: SEED, numRuns: 5000 },
    )
  })

  it('keeps __proto__ as a key and gives objects no prototype', () => {
    const parsed = parseJson('{"__proto__":{"polluted":true}}')
    expect(Object.keys(parsed as object)).toEqual(['__proto__'])
    expect(Object.getPrototypeOf(parsed)).toBeNull()
    expect({}).not.toHaveProperty('polluted')
  })

  it.each([
    '{"a":1,"a":2}',
    '9007199254740992',
    '-9007199254740992',
    '1e999',
    'NaN',
    'Infinity',
    '01',
    '1.',
    '.5',
    '+1',
    '"\t"',
    '"\\x"',
    '{"a":1,}',
    '[1,]',
    '',
    ' ',
    'nul',
    '"\\udc00"',
    '{a:1}',
    "'a'",
    '/**/1',
    '\ufeff1',
  ])('refuses %s', (text) => {
    expect(() => parseJson(text)).toThrow(JsonError)
  })

  it('reads 64 levels and refuses 65', () => {
    const nested = (levels: number) => '['.repeat(levels) + ']'.repeat(levels)
    expect(() => parseJson(nested(65))).not.toThrow()
    expect(() => parseJson(nested(66))).toThrow(/deeper than 64/)
  })

  it.each(['-1', '1.0', '1e2', '-0'])('refuses %s where only counts are numbers', (text) => {
    expect(() => parseJson(text, 'counts')).toThrow(JsonError)
    expect(parseJson(text)).toBe(Number(text))
  })
})

describe('canonicalJson', () => {
  it('sorts keys by code point at every level and writes no whitespace', () => {
    const value = { b: [{ d: 1, c: 0.1 }], '\u{1f600}': null, '\uffee': true, a: 'é"\n' }
    expect(canonicalJson(value)).toBe('{"a":"é\\"\\n","b":[{"c":0.1,"d":1}],"\uffee":true,"\u{1f600}":null}')
  })

  it('orders by code point where UTF-16 units would order otherwise', () => {
    expect('\uffee' < '\u{1f600}').toBe(false)
    expect(compareCodePoints('\uffee', '\u{1f600}')).toBeLessThan(0)
    expect(compareCodePoints('a', 'ab')).toBeLessThan(0)
  })

  it('gives one text per value, which JSON.parse reads back', () => {
    fc.assert(
      fc.property(fc.dictionary(fc.string(), fc.oneof(fc.integer(), fc.string(), fc.boolean())), (object) => {
        const reversed = Object.fromEntries(Object.entries(object).reverse())
        expect(canonicalJson(object)).toBe(canonicalJson(reversed))
        expect(JSON.parse(canonicalJson(object))).toEqual(Object.fromEntries(Object.entries(object)))
      }),
      { seed: SEED, numRuns: 500 },
    )
  })
})
