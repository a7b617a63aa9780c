// Patterns of --include, against Node's own globbing and by hand.
import { matchesGlob } from 'node:path/posix'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { matches } from '../../pull/glob.ts'

describe('a pattern', () => {
  it.each([
    ['*', '', true],
    ['*', 'a/b', true],
    ['*.gguf', 'x/y.gguf', true],
    ['*.gguf', 'y.gguf.txt', false],
    ['a*b*c', 'aXbYbc', true],
    ['a?c', 'ac', false],
    ['', '', true],
    ['', 'a', false],
    ['a', 'A', false],
    ['[a]', 'a', false],
  ])('%j on %j is %j', (pattern, text, expected) => {
    expect(matches(pattern, text)).toBe(expected)
  })

  it('without a slash in the text means what Node means', () => {
    const characters = (set: string) => fc.string({ unit: fc.constantFrom(...set), maxLength: 12 })
    fc.assert(
      fc.property(characters('ab*?'), characters('ab'), (pattern, text) => {
        fc.pre(pattern !== '' && text !== '')
        expect(matches(pattern, text)).toBe(matchesGlob(text, pattern.replaceAll(/\*+/g, '*')))
      }),
    )
  })

  it('of many stars takes no time that grows with their number', () => {
    const started = performance.now()
    expect(matches(`${'a*'.repeat(128)}b`, 'a'.repeat(4096))).toBe(false)
    expect(performance.now() - started).toBeLessThan(100)
  })
})
