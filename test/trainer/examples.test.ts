// Lines of JSONL → tokens and targets; what is wrong is named by file and line.
import { describe, expect, it } from 'vitest'
import type { InputError } from '../../compiler/errors.ts'
import { makeBatch } from '../../trainer/data/batch.ts'
import { dropoutFeeds } from '../../trainer/data/dropout.ts'
import type { Example } from '../../trainer/data/example.ts'
import { LineError, parseLine } from '../../trainer/data/examples.ts'
import { holdOut, rowsInOrder, rowsOfEpoch } from '../../trainer/data/order.ts'
import { readJsonl } from '../../trainer/data/read-jsonl.ts'
import type { TrainingText } from '../../trainer/data/text.ts'
import { trainingNames } from '../../trainer/graph/names.ts'
import { seeded } from '../compiler/random.ts'

/** A token a character, its code; 1 begins a text and 2 ends it. */
const text: TrainingText = {
  encode: (words, special) => [...(special ? [1] : []), ...Array.from(words, (char) => char.codePointAt(0) as number)],
  render: (messages, addGenerationPrompt) => {
    if (messages.some(({ content }) => content === 'refuse')) throw new Error('roles must alternate')
    const turns = messages.map(({ role, content }) => `${role[0]}:${content}${role === 'assistant' ? '\u0002' : ''}\n`)
    return `\u0001${turns.join('')}${addGenerationPrompt ? 'a:' : ''}`
  },
  endId: 2,
}
const show = ({ ids, isTarget }: Example) =>
  ids.map((id, at) => (isTarget[at] ? String.fromCodePoint(id).toUpperCase() : String.fromCodePoint(id))).join('')
const parse = (json: unknown, maxTokens = 100) => parseLine(JSON.stringify(json), text, { maxTokens })

const fileOf = (content: string | Uint8Array) => {
  const bytes = typeof content === 'string' ? new TextEncoder().encode(content) : content
  return {
    name: 'data.jsonl',
    size: bytes.length,
    read: async (offset: number, length: number) => new Uint8Array(bytes.subarray(offset, offset + length)),
    close: async () => {},
  }
}
const options = { maxTokens: 100, badLines: 'refuse', vocabSize: 256 } as const

describe('a line', () => {
  it('of prompt and completion has its loss on the completion and the end', () => {
    expect(parse({ prompt: 'ab', completion: 'cd' }).map(show)).toEqual(['\u0001abCD\u0002'])
    expect(parse({ prompt: 'ab', completion: 'cd' })[0]?.isTarget.slice(-1)).toEqual([true])
  })

  it('of messages has its loss on every turn of the assistant, up to the token that ends it', () => {
    const messages = [
      { role: 'system', content: 'be' },
      { role: 'user', content: 'hi' },
      { role: 'assistant', content: 'yo' },
      { role: 'user', content: 'x' },
      { role: 'assistant', content: 'z' },
    ]
    const [example] = parse({ messages }) as [Example]
    expect(show(example)).toBe('\u0001s:be\nu:hi\na:YO\u0002\nu:x\na:Z\u0002')
    const targets = example.ids.filter((_, at) => example.isTarget[at])
    expect(targets).toEqual([...'yo\u0002z\u0002'].map((char) => char.charCodeAt(0)))
  })

  it('of text is learned whole, in pieces that overlap by one token', () => {
    const pieces = parse({ text: 'abcdefg' }, 4)
    expect(pieces.map(({ ids }) => String.fromCodePoint(...ids))).toEqual(['\u0001abc', 'cdef', 'fg\u0002'])
    const learned = pieces.flatMap(({ ids, isTarget }) => ids.slice(1).filter((_, at) => isTarget[at + 1]))
    expect(String.fromCodePoint(...learned)).toBe('abcdefg\u0002')
  })

  it.each([
    ['{"prompt": 1, "completion": "x"}', /is none of/],
    ['{"prompt": "a", "completion": "x", "more": 1}', /Unrecognized key: "more"/],
    ['{"text": ""}', /"text": Too small/],
    ['nonsense', /is not JSON/],
    ['{"text": "a", "text": "b"}', /is not JSON/],
    ['{"messages": [{"role": "user", "content": "a"}]}', /no turn of the assistant/],
    ['{"messages": [{"role": "assistant", "content": "a"}]}', /begins with the assistant/],
    [
      '{"messages": [{"role": "user", "content": "refuse"}, {"role": "assistant", "content": "a"}]}',
      /roles must alternate/,
    ],
    [JSON.stringify({ prompt: 'x'.repeat(99), completion: 'yy' }), /has 103 tokens; at most 100/],
  ])('is refused with what is wrong: %s', (line, reason) => {
    expect(() => parseLine(line, text, { maxTokens: 100 })).toThrow(LineError)
    expect(() => parseLine(line, text, { maxTokens: 100 })).toThrow(reason)
  })
})

describe('a file', () => {
  it('keeps its numbers over empty and bad lines, and names every bad one', async () => {
    const content = '{"text":"ab"}\n\n{"text":7}\n{"text":"cd"}\nbroken'
    const error = await readJsonl(fileOf(content), text, options).then(
      () => undefined,
      (thrown: InputError) => thrown,
    )
    expect(error?.code).toBe('train-data')
    expect(error?.problems.map(({ message }) => message.split(':').slice(0, 2).join(':'))).toEqual([
      'data.jsonl:3',
      'data.jsonl:5',
    ])
  })

  it('leaves bad lines out where that is asked for, and says which', async () => {
    const found = await readJsonl(fileOf('{"text":"ab"}\nbroken\n{"text":"cd"}\n'), text, {
      ...options,
      badLines: 'skip',
    })
    expect(found.examples).toHaveLength(2)
    expect(found.skipped).toBe(1)
    expect(found.reasons[0]).toMatch(/^data\.jsonl:2: the line is not JSON/)
  })

  it('with nothing to learn is refused', async () => {
    await expect(readJsonl(fileOf('\n\n'), text, options)).rejects.toThrow(/no examples in 2 lines/)
  })

  it('with a token that the base does not have is refused', async () => {
    await expect(readJsonl(fileOf('{"text":"aЖ"}'), text, options)).rejects.toThrow(/token 1046, but the base has 256/)
  })

  it('with bytes that are not UTF-8 is refused by line', async () => {
    const bytes = Uint8Array.of(...new TextEncoder().encode('{"text":"ab"}\n'), 0xff, 0xfe, 10)
    await expect(readJsonl(fileOf(bytes), text, options)).rejects.toThrow(/data\.jsonl:2: the line is not UTF-8/)
  })

  it('with a line beyond the limit is refused by line, and the lines after it keep their numbers', async () => {
    const long = new Uint8Array(16 * 1024 * 1024 + 1).fill(97)
    const bytes = new TextEncoder().encode('{"text":"ab"}\n')
    const whole = new Uint8Array(bytes.length + long.length + 8)
    whole.set(bytes)
    whole.set(long, bytes.length)
    whole.set(new TextEncoder().encode('\nbroken'), bytes.length + long.length)
    const error = (await readJsonl(fileOf(whole.subarray(0, bytes.length + long.length + 7)), text, options).catch(
      (thrown: unknown) => thrown,
    )) as InputError
    expect(error.problems.map(({ message }) => message)).toEqual([
      expect.stringMatching(/^data\.jsonl:2: the line has \d+ bytes; at most 16777216 are read/),
      expect.stringMatching(/^data\.jsonl:3: the line is not JSON/),
    ])
  })

  it('never throws anything but a typed error, whatever its bytes are', async () => {
    const random = seeded(11)
    for (let i = 0; i < 500; i += 1) {
      const bytes = Uint8Array.from({ length: Math.floor(random() * 60) }, () => Math.floor(random() * 256))
      const error: unknown = await readJsonl(fileOf(bytes), text, options).catch((thrown: unknown) => thrown)
      expect((error as InputError).code).toBe('train-data')
    }
  })
})

const examples = Array.from({ length: 20 }, (_, at): Example => {
  const ids = Array.from({ length: 2 + (at % 7) }, (_, i) => 10 * at + i)
  return { ids, isTarget: ids.map((_, i) => i > 0) }
})

describe('the order', () => {
  const order = { seed: 5, shuffle: true, packTokens: undefined }

  it('shows every example once an epoch, in another order each', () => {
    const first = rowsOfEpoch(examples, order, 0).flat()
    const second = rowsOfEpoch(examples, order, 1).flat()
    expect(new Set(first)).toEqual(new Set(examples))
    expect(new Set(second)).toEqual(new Set(examples))
    expect(first).not.toEqual(second)
  })

  it.each([undefined, 8])('goes on after any number of rows as it would have gone on (packed to %s)', (packTokens) => {
    const take = (skip: number, count: number) => {
      const rows = rowsInOrder(examples, { ...order, packTokens }, skip)
      return Array.from({ length: count }, () => rows.next().value)
    }
    const all = take(0, 60)
    for (const skip of [1, 7, 19, 33, 45]) expect(take(skip, 10)).toEqual(all.slice(skip, skip + 10))
  })

  it('packs every example once, in rows that fit', () => {
    const rows = rowsOfEpoch(examples, { ...order, packTokens: 8 }, 0)
    expect(new Set(rows.flat())).toEqual(new Set(examples))
    expect(rows.length).toBeLessThan(examples.length)
    for (const row of rows) expect(row.reduce((sum, { ids }) => sum + ids.length - 1, 0)).toBeLessThanOrEqual(8)
  })

  it('holds out a share, the same for the same seed', () => {
    const { train, held } = holdOut(examples, 0.25, 3)
    expect([train.length, held.length]).toEqual([15, 5])
    expect(new Set([...train, ...held])).toEqual(new Set(examples))
    expect(holdOut(examples, 0.25, 3).held).toEqual(held)
  })
})

describe('a batch', () => {
  it('has for each target the place of the token before it, and weight 0 where it is filled up', () => {
    const rows = [[examples[0] as Example, examples[3] as Example], [examples[5] as Example]]
    const { feeds, targets, tokens } = makeBatch(rows, 0.5, 4)
    const data = (name: string) => Array.from(feeds[name]?.data ?? [], Number)
    expect([targets, tokens]).toEqual([11, 11])
    expect(data(trainingNames.segments)).toEqual([1, 2, 2, 2, 2, 0, 1, 1, 1, 1, 1, 1])
    expect(data('position_ids')).toEqual([0, 0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 5])
    expect(data(trainingNames.targets)).toEqual([1, 31, 32, 33, 34, 51, 52, 53, 54, 55, 56, 0])
    expect(data(trainingNames.targetPlaces).slice(0, 12)).toEqual([0, 0, 0, 1, 0, 2, 0, 3, 0, 4, 1, 0])
    expect(data(trainingNames.targetWeights)).toEqual([...Array(11).fill(0.5), 0])
  })

  it('leaves out a share of inputs near what was asked for, the same for the same seed and run', () => {
    const spec = {
      modules: [{ linear: { module: 'm', in: 64, out: 3 }, r: 2, scaling: 1 }],
      init: 'default' as const,
      dora: false,
      dropout: 0.3,
    }
    const noise = (run: string) => dropoutFeeds(spec, 1000, 1, run)[trainingNames.dropoutNoise]?.data as Float32Array
    const share = noise('0/0').filter((x) => x === 0).length / noise('0/0').length
    expect(Math.abs(share - 0.3)).toBeLessThan(0.01)
    expect(new Set(noise('0/0'))).toEqual(new Set([0, Math.fround(1 / 0.7)]))
    expect(noise('0/0')).toEqual(noise('0/0'))
    expect(noise('0/0')).not.toEqual(noise('1/0'))
  })
})
