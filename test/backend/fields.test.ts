// The fields of OpenAI's API, through the real client, against transformers (test/parity/openai-oracle.py).
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import OpenAI from 'openai'
import { describe, expect, test } from 'vitest'
import { type Capability, paths } from '../../gpu-backend/contract.ts'
import { read, startBackend } from './backend.ts'

interface Step {
  readonly id: number
  readonly logprob: number
  readonly top: [number, number][]
}

const oracle = JSON.parse(readFileSync(join(import.meta.dirname, '..', 'parity', 'oracle', 'openai.json'), 'utf8')) as {
  prompt: { text: string; ids: number[] }
  cases: Record<string, { fields: object; ids: number[]; text: string; steps: Step[] }>
  scored: { text: string; ids: number[]; steps: Step[] }
}
/** fp32 on two engines. */
const CLOSE = 3

const at = startBackend()
const { text: prompt, ids: promptIds } = oracle.prompt
const greedy = { model: '-', prompt, temperature: 0, max_tokens: 40 }
const chatOf = (content: string) => ({ model: '-', messages: [{ role: 'user' as const, content }], temperature: 0 })

async function client(given: Partial<Capability> = {}): Promise<OpenAI> {
  return new OpenAI({
    apiKey: await at.capability(given),
    baseURL: `${at.backend.url}/v1`,
    maxRetries: 0,
    fetch: (url, init) => {
      const { model: _, ...body } = JSON.parse(String(init?.body))
      return fetch(url, { ...init, body: JSON.stringify(body) } as RequestInit)
    },
  })
}

const complete = async (fields: object) => (await client()).completions.create({ ...greedy, ...fields, stream: false })

describe('prompts', () => {
  test('a text, its token ids, and lists of both give the same answers', async () => {
    const [text, ids, texts, lists] = await Promise.all(
      [prompt, promptIds, [prompt, 'The'], [promptIds, promptIds]].map((given) => complete({ prompt: given })),
    )
    const expected = oracle.cases.plain!.text
    expect(text!.choices.map((choice) => choice.text)).toEqual([expected])
    expect(ids!.choices.map((choice) => choice.text)).toEqual([expected])
    expect(texts!.choices.map(({ index }) => index)).toEqual([0, 1])
    expect(texts!.choices[0]!.text).toBe(expected)
    expect(lists!.choices.map((choice) => choice.text)).toEqual([expected, expected])
    expect(lists!.usage).toMatchObject({
      prompt_tokens: 2 * promptIds.length,
      completion_tokens: 2 * oracle.cases.plain!.ids.length,
      total_tokens: 2 * (promptIds.length + oracle.cases.plain!.ids.length),
    })
  })

  test('n answers a prompt as often, each in its place, and counts the prompt once', async () => {
    const found = await complete({ prompt: [prompt, 'The'], n: 2, temperature: 1, seed: 5, max_tokens: 12 })
    expect(found.choices.map(({ index }) => index)).toEqual([0, 1, 2, 3])
    expect(found.choices[0]!.text).not.toBe(found.choices[1]!.text)
    const { usage: one } = await complete({ prompt: [prompt, 'The'], max_tokens: 1 })
    expect(found.usage!.prompt_tokens).toBe(one!.prompt_tokens)
    const again = await complete({ prompt: [prompt, 'The'], n: 2, temperature: 1, seed: 5, max_tokens: 12 })
    expect(again.choices).toEqual(found.choices)
    const alone = await complete({ temperature: 1, seed: 6, max_tokens: 12 })
    expect(alone.choices[0]!.text).toBe(found.choices[1]!.text)
  })

  test('n streams its answers side by side, and they are the whole ones', async () => {
    const openai = await client()
    const fields = { ...chatOf('The bill is too high.'), n: 3, temperature: 1, seed: 9, max_tokens: 8 }
    const whole = await openai.chat.completions.create(fields)
    const stream = await openai.chat.completions.create({
      ...fields,
      stream: true,
      stream_options: { include_usage: true },
    })
    const texts = ['', '', '']
    const ends: (string | null)[] = [null, null, null]
    let usage: unknown
    for await (const chunk of stream) {
      for (const { index, delta, finish_reason } of chunk.choices) {
        texts[index] += delta.content ?? ''
        ends[index] = finish_reason ?? ends[index]!
      }
      usage = chunk.usage ?? usage
    }
    expect(texts).toEqual(whole.choices.map(({ message }) => message.content))
    expect(ends).toEqual(whole.choices.map(({ finish_reason }) => finish_reason))
    expect(usage).toMatchObject({ ...whole.usage, prompt_tokens_details: expect.anything() })
  })

  test('what the capability allows is for all answers together', async () => {
    const body = { prompt: ['In', 'The'], n: 2, max_tokens: 50, temperature: 0 }
    const found = await read(at.post(paths.completions, body, { maxTokens: 10 }))
    expect(found.usage.completion_tokens).toBeLessThanOrEqual(8)
    expect((await at.post(paths.completions, body, { maxTokens: 3 })).status).toBe(400)
  })

  test('one that cannot be answered ends all of its request, and of no other', async () => {
    const other = complete({})
    const refused = await at.post(paths.completions, { prompt: ['fine', '1'.repeat(600)], max_tokens: 4 })
    expect(refused.status).toBe(400)
    expect((await other).choices[0]!.text).toBe(oracle.cases.plain!.text)
  })
})

describe('penalties and biases', () => {
  test.each(Object.keys(oracle.cases))('%s: greedy answers are those of the reference', async (name) => {
    const { fields, text, ids } = oracle.cases[name]!
    const found = await complete(fields)
    expect(found.choices[0]!.text).toBe(text)
    expect(found.usage!.completion_tokens).toBe(ids.length)
  })

  test('a bias for a token that does not exist is refused', async () => {
    await expect(complete({ logit_bias: { '2048': 1 } })).rejects.toMatchObject({ status: 400, param: 'logit_bias' })
  })
})

describe('log-probabilities', () => {
  const steps = oracle.cases.plain!.steps

  test('of a completion are those of the model, the most probable beside each token', async () => {
    const found = await complete({ logprobs: 4, max_tokens: steps.length })
    const { logprobs, text } = found.choices[0]!
    expect(logprobs!.tokens!.join('')).toBe(text)
    expect(logprobs!.text_offset).toEqual(offsetsOf(logprobs!.tokens!))
    for (const [index, { logprob, top }] of steps.entries()) {
      expect(logprobs!.token_logprobs![index]).toBeCloseTo(logprob, CLOSE)
      // JSON's order is no order: a token that is a digit comes first.
      const values = Object.values(logprobs!.top_logprobs![index]!).sort((a, b) => b - a)
      expect(values).toHaveLength(4)
      for (const [rank, [, value]] of top.entries()) expect(values[rank]).toBeCloseTo(value, CLOSE)
    }
  })

  test('say what the model thought, and not what a bias made of it', async () => {
    const { fields, steps: biased } = oracle.cases.all!
    const found = await complete({ ...fields, logprobs: 0, max_tokens: biased.length })
    const { token_logprobs, top_logprobs } = found.choices[0]!.logprobs!
    for (const [index, { logprob }] of biased.entries()) {
      expect(token_logprobs![index]).toBeCloseTo(logprob, CLOSE)
      expect(Object.values(top_logprobs![index]!)).toEqual([token_logprobs![index]])
    }
  })

  test('of a prompt come with echo, without a token produced', async () => {
    const { text, ids, steps: scored } = oracle.scored
    const found = await complete({ prompt: text, echo: true, logprobs: 4, max_tokens: 0 })
    const { logprobs, text: echoed, finish_reason } = found.choices[0]!
    expect([echoed, finish_reason]).toEqual([text, 'length'])
    expect(found.usage).toEqual({
      prompt_tokens: ids.length,
      completion_tokens: 0,
      total_tokens: ids.length,
      // What is scored runs, whatever ran before.
      prompt_tokens_details: { cached_tokens: 0 },
    })
    expect(logprobs!.tokens).toHaveLength(ids.length)
    expect([logprobs!.token_logprobs![0], logprobs!.top_logprobs![0]]).toEqual([null, null])
    for (const [index, { logprob, top }] of scored.entries()) {
      expect(logprobs!.token_logprobs![index + 1]).toBeCloseTo(logprob, CLOSE)
      expect(Math.max(...Object.values(logprobs!.top_logprobs![index + 1]!))).toBeCloseTo(top[0]![1], CLOSE)
    }
    // The emoji is four tokens, none of them a character.
    expect(logprobs!.tokens!.filter((token) => token.startsWith('bytes:\\x'))).toEqual([
      'bytes:\\xf0',
      'bytes:\\x9f',
      'bytes:\\x99',
      'bytes:\\x82',
    ])
    expect(logprobs!.text_offset!.at(-1)).toBe(text.length - 1)
  })

  test('of a prompt longer than a run are the same as in one', async () => {
    const ids = Array.from({ length: 150 }, (_, index) => 10 + ((index * 37) % 2_000))
    const both = await complete({ prompt: [ids, ids.slice(0, 20)], echo: true, logprobs: 0, max_tokens: 0 })
    const [long, short] = both.choices.map(({ logprobs }) => logprobs!.token_logprobs!)
    expect(long).toHaveLength(150)
    for (const [index, value] of short!.slice(1).entries()) expect(long![index + 1]).toBeCloseTo(value!, CLOSE)
  })

  test('echo repeats the prompt before the answer, streamed too', async () => {
    const expected = prompt + oracle.cases.plain!.text
    const whole = await complete({ echo: true, logprobs: 1 })
    expect(whole.choices[0]!.text).toBe(expected)
    expect(whole.choices[0]!.logprobs!.tokens).toHaveLength(promptIds.length + oracle.cases.plain!.ids.length)
    const openai = await client()
    const stream = await openai.completions.create({ ...greedy, echo: true, logprobs: 1, stream: true })
    let text = ''
    const tokens: string[] = []
    for await (const { choices } of stream) {
      text += choices[0]!.text
      tokens.push(...(choices[0]!.logprobs?.tokens ?? []))
    }
    expect(text).toBe(expected)
    expect(tokens).toEqual(whole.choices[0]!.logprobs!.tokens)
  })

  test('of a chat have the bytes of each token, which are the text', async () => {
    const openai = await client({ adapter: at.demo.digest('dates') })
    const found = await openai.chat.completions.create({
      ...chatOf('It began on 3 March 2021.'),
      logprobs: true,
      top_logprobs: 2,
    })
    const { content } = found.choices[0]!.logprobs!
    expect(content!.length).toBe(found.usage!.completion_tokens)
    const [end] = content!.slice(-1)
    expect(end!.token).toBe('</s>')
    const bytes = content!.slice(0, -1).flatMap((token) => token.bytes!)
    expect(new TextDecoder().decode(Uint8Array.from(bytes))).toBe(found.choices[0]!.message.content)
    for (const { logprob, top_logprobs } of content!) {
      expect(top_logprobs).toHaveLength(2)
      expect(top_logprobs[0]!.logprob).toBe(logprob)
    }
  })
})

describe('stop', () => {
  test('the first of several ends the answer, across the borders of tokens', async () => {
    const full = oracle.cases.plain!.text
    const [early, late] = [full.slice(9, 13), full.slice(20, 30)]
    const found = await complete({ stop: ['never there', late, early] })
    expect(found.choices[0]).toMatchObject({ text: full.slice(0, full.indexOf(early)), finish_reason: 'stop' })
    await expect(complete({ stop: ['a', 'b', 'c', 'd', 'e'] })).rejects.toMatchObject({ status: 400, param: 'stop' })
  })
})

describe('what is refused, by name', () => {
  test.each([
    [paths.completions, { prompt: 'x', suffix: 'y' }, 'suffix'],
    [paths.completions, { prompt: 'x', best_of: 2 }, 'best_of'],
    [paths.completions, { prompt: 'x', max_tokens: 0 }, 'max_tokens'],
    [paths.completions, { prompt: ['x', 'y', 'z'], n: 11 }, 'n'],
    [paths.completions, { prompt: [] }, 'prompt'],
    [paths.completions, { prompt: [5, 2048] }, 'prompt'],
    [paths.completions, { prompt: [-1] }, 'prompt.0'],
    [paths.completions, { prompt: 'x', logit_bias: { a: 1 } }, 'logit_bias.a'],
    [paths.completions, { prompt: 'x', frequency_penalty: 2.5 }, 'frequency_penalty'],
    [paths.completions, { prompt: 'x', user: 'me' }, 'user'],
    [paths.chat, { top_logprobs: 3 }, 'top_logprobs'],
    [paths.chat, { max_tokens: 3, max_completion_tokens: 4 }, 'max_tokens'],
    [paths.chat, { tool_choice: 'auto' }, 'tool_choice'],
    [paths.chat, { tools: [{ type: 'function', function: { name: 'f' } }] }, 'tools'],
    [paths.chat, { functions: [] }, 'functions'],
    [paths.chat, { messages: [{ role: 'user', content: [{ type: 'image_url', text: 'x' }] }] }, 'messages.0.content'],
  ])('%s %j', async (path, body, param) => {
    const answer = await at.post(path, { ...(path === paths.chat ? chatOf('hi') : {}), ...body, model: undefined })
    const { error } = await read(answer)
    expect([answer.status, error.param, error.code]).toEqual([400, param, 'request_invalid'])
    expect(error.message.startsWith(`"${param}"`) || error.message.includes('no tools')).toBe(true)
  })

  test('vectors of a base that generates text', async () => {
    const answer = await at.post(paths.embeddings, { input: 'x' })
    expect([answer.status, (await read(answer)).error.message]).toEqual([400, expect.stringContaining('embeds none')])
  })

  test('fields that are null are as if they were absent', async () => {
    const absent = { max_tokens: null, n: null, stop: null, logprobs: null, best_of: null, suffix: null, seed: null }
    const answer = await at.post(paths.completions, { prompt: 'In', temperature: 0, ...absent })
    expect(answer.status).toBe(200)
  })
})

function offsetsOf(tokens: readonly string[]): number[] {
  let at = 0
  return tokens.map((token) => {
    const start = at
    at += token.length
    return start
  })
}
