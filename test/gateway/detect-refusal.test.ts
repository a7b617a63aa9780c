// The rule that takes an answer for a refusal: which openings count, and that hostile bytes are none.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { MAX_HEAD_BYTES, refusedInWhole, watchRefusal } from '../../gateway/experiment/detect-refusal.ts'

const chat = (content: string) => ({ choices: [{ index: 0, message: { role: 'assistant', content } }] })
const event = (value: unknown) => `data: ${JSON.stringify(value)}\n\n`
const encoder = new TextEncoder()

/** As a stream brings it: a few characters an event, events cut anywhere. */
function refusedInStream(content: string, cut = 7): boolean {
  const words = content.match(/.{1,4}/gsu) ?? []
  const bytes = encoder.encode(
    `${words.map((word) => event({ choices: [{ delta: { content: word } }] })).join('')}data: [DONE]\n\n`,
  )
  const watch = watchRefusal()
  for (let at = 0; at < bytes.length; at += cut) watch.push(bytes.subarray(at, at + cut))
  return watch.refused()
}

describe('a refusal', () => {
  it.each([
    "I'm sorry, but I can't help with that.",
    'I’m sorry, I cannot assist with this request.',
    '  I am very sorry but I cannot say.',
    "Sorry, I can't do that.",
    'I apologize, but I am unable to answer.',
    'Unfortunately, I am not able to share this.',
    'I cannot provide medical advice.',
    "I won't help with this.",
    'As an AI language model, I cannot have opinions.',
    'AS AN AI, I CAN NOT DO THAT.',
  ])('is: %s', (content) => {
    expect(refusedInWhole(chat(content))).toBe(true)
    expect(refusedInStream(content)).toBe(true)
    expect(refusedInWhole({ choices: [{ text: content }] })).toBe(true)
  })

  it.each([
    'Certainly! I cannot wait to help.',
    'I cannot recommend it enough.',
    "I'm sorry to hear that. Let us look at it.",
    'The sorry state of the parser',
    'As an AI company, we ship models.',
    '',
  ])('is not: %s', (content) => {
    expect(refusedInWhole(chat(content))).toBe(false)
    expect(refusedInStream(content)).toBe(false)
  })

  it('is what the answer itself calls one', () => {
    expect(refusedInWhole({ choices: [{ message: { content: null, refusal: 'No.' } }] })).toBe(true)
    const watch = watchRefusal()
    watch.push(encoder.encode(event({ choices: [{ delta: { refusal: 'No.' } }] })))
    expect(watch.refused()).toBe(true)
  })

  it('is read of the beginning alone: what comes later, and past the head, plays no part', () => {
    expect(refusedInStream(`Yes. ${'so '.repeat(100)}I'm sorry, but I can't`)).toBe(false)
    const watch = watchRefusal()
    watch.push(encoder.encode(`: ${'x'.repeat(MAX_HEAD_BYTES)}\n\n`))
    watch.push(encoder.encode(event({ choices: [{ text: "I'm sorry, but I can't help." }] })))
    expect(watch.refused()).toBe(false)
  })

  it('is the same however the bytes are cut', () => {
    for (let cut = 1; cut < 40; cut++) expect(refusedInStream('I’m sorry, I cannot assist with this.', cut)).toBe(true)
  })

  it('is never found in, and never thrown by, what is no answer', () => {
    fc.assert(
      fc.property(fc.anything(), (value) => {
        expect(refusedInWhole(value)).toBe(false)
      }),
    )
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 400 })), (chunks) => {
        const watch = watchRefusal()
        for (const chunk of chunks) watch.push(chunk)
        expect(watch.refused()).toBe(false)
      }),
    )
  })
})
