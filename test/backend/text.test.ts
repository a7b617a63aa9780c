// Text as it streams: whole characters, and no stop string however the tokens cut it.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Detokeniser } from '../../gpu-backend/text/detokeniser.ts'
import { StopMatcher } from '../../gpu-backend/text/stops.ts'
import { createWriter } from '../../gpu-backend/text/writer.ts'

/** One token per byte: the worst tokenizer there can be. */
const decodeBytes = (ids: readonly number[]): string => new TextDecoder('utf-8').decode(Uint8Array.from(ids))
const bytesOf = (text: string): number[] => [...new TextEncoder().encode(text)]

function streamed(ids: readonly number[], prompt: readonly number[] = []): string[] {
  const detokeniser = new Detokeniser(decodeBytes, prompt)
  return [...ids.map((id) => detokeniser.push(id)), detokeniser.flush()]
}

describe('detokeniser', () => {
  test('an emoji in four tokens leaves at once, with its last byte', () => {
    expect(streamed(bytesOf('a🙂b'))).toEqual(['a', '', '', '', '🙂', 'b', ''])
  })

  test('a prompt before it changes nothing', () => {
    expect(streamed(bytesOf('é!'), bytesOf('some prompt'))).toEqual(['', 'é', '!', ''])
  })

  test('an unfinished character at the end becomes a replacement character', () => {
    expect(streamed(bytesOf('a🙂').slice(0, 3)).join('')).toBe('a\uFFFD')
  })

  test('bytes that are no UTF-8 do not hold back what follows', () => {
    expect(streamed([0xff, 0x61, 0x62])).toEqual(['', '\uFFFDa', 'b', ''])
  })

  test('a space that a decoder strips from a first token is kept inside a text', () => {
    const words = ['▁Hello', '▁world']
    const decode = (ids: readonly number[]): string =>
      ids
        .map((id) => words[id])
        .join('')
        .replaceAll('▁', ' ')
        .replace(/^ /, '')
    const detokeniser = new Detokeniser(decode, [0])
    expect(detokeniser.push(1) + detokeniser.push(1)).toBe(' world world')
  })

  test('the stream is the decoded sequence, whatever the bytes (property)', () => {
    const bytes = fc.oneof(
      fc.array(fc.integer({ min: 0, max: 255 }), { maxLength: 200 }),
      fc.string({ unit: 'grapheme', maxLength: 40 }).map(bytesOf),
    )
    fc.assert(
      fc.property(bytes, (ids) => {
        // A BOM at the start of a window is swallowed by TextDecoder, not by the tokenizers' decoders.
        fc.pre(!decodeWithBom(ids).includes('\uFEFF'))
        expect(streamed(ids).join('')).toBe(decodeBytes(ids))
      }),
    )
  })

  test('valid text never shows a replacement character (property)', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 40 }), (text) => {
        fc.pre(!text.includes('\uFFFD') && !text.includes('\uFEFF'))
        for (const part of streamed(bytesOf(text))) expect(part).not.toContain('\uFFFD')
      }),
    )
  })
})

function decodeWithBom(ids: readonly number[]): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(Uint8Array.from(ids))
}

function match(parts: readonly string[], stops: readonly string[]): { sent: string[]; stopped: boolean } {
  const matcher = new StopMatcher(stops)
  const sent: string[] = []
  for (const part of parts) {
    const { text, stopped } = matcher.push(part)
    sent.push(text)
    if (stopped) return { sent, stopped }
  }
  return { sent: [...sent, matcher.flush()], stopped: false }
}

describe('stop strings', () => {
  test('one that spans tokens is found, and no part of it is sent', () => {
    expect(match(['Hello E', 'N', 'D of it'], ['END'])).toEqual({ sent: ['Hello ', '', ''], stopped: true })
  })

  test('text that only began like one is sent once that is clear', () => {
    expect(match(['E', 'N', 'E', 'N', 'x'], ['END'])).toEqual({ sent: ['', '', 'EN', '', 'ENx', ''], stopped: false })
  })

  test('what was held back is sent when the row ends', () => {
    expect(match(['abcE'], ['END'])).toEqual({ sent: ['abc', 'E'], stopped: false })
  })

  test('of several, the one that is complete first ends the text', () => {
    expect(match(['xabcd'], ['abcd', 'bc'])).toEqual({ sent: ['xa'], stopped: true })
    expect(match(['xabc'], ['c', 'abc'])).toEqual({ sent: ['x'], stopped: true })
  })

  test('the borders of tokens make no difference (property)', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 30 })
    const stops = fc.array(fc.string({ unit: fc.constantFrom('a', 'b', 'c'), minLength: 1, maxLength: 4 }), {
      maxLength: 4,
    })
    fc.assert(
      fc.property(letters, stops, fc.array(fc.integer({ min: 0, max: 30 })), (text, given, cuts) => {
        const borders = [0, ...cuts.filter((cut) => cut <= text.length).sort((a, b) => a - b), text.length]
        const parts = borders.slice(1).map((end, at) => text.slice(borders[at], end))
        const whole = match([text], given)
        const cut = match(parts, given)
        expect([cut.sent.join(''), cut.stopped]).toEqual([whole.sent.join(''), whole.stopped])
        for (const stop of given) expect(cut.sent.join('')).not.toContain(stop)
      }),
    )
  })
})

describe('writer', () => {
  test('finds a stop string of emoji whose bytes are tokens', () => {
    const writer = createWriter(decodeBytes, [], ['🛑'])
    const found = bytesOf('go🛑on').map((id) => writer.push(id))
    expect(found.findIndex(({ stopped }) => stopped)).toBe(5)
    expect(
      found
        .slice(0, 6)
        .map(({ text }) => text)
        .join(''),
    ).toBe('go')
  })

  test('ends with what both held back', () => {
    const writer = createWriter(decodeBytes, [], ['xyz'])
    const ids = [...bytesOf('axy'), 0xf0]
    expect(ids.map((id) => writer.push(id).text).join('') + writer.end()).toBe('axy\uFFFD')
  })

  test('without a tokenizer there is no text', () => {
    const writer = createWriter(undefined, [1], ['x'])
    expect([writer.push(3), writer.end()]).toEqual([{ text: '', stopped: false }, ''])
  })
})
