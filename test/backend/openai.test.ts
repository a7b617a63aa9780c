// The backend through the real `openai` client, and the streams that it reads.
import OpenAI from 'openai'
import { describe, expect, test } from 'vitest'
import { type Capability, paths } from '../../gpu-backend/contract.ts'
import { demoOracle } from './artifacts.ts'
import { eventually, read, startBackend } from './backend.ts'
import { SECRET } from './mint.ts'

const at = startBackend()
const MESSAGE = 'The server is down. We signed on 21 June 2016. The laws of England apply.'
const chatOf = (content: string) => ({ model: '-', messages: [{ role: 'user' as const, content }], temperature: 0 })

/** `model` is a field of OpenAI's clients; a gateway rebuilds the body without it. */
async function withoutModel(given: Partial<Capability> = {}): Promise<OpenAI> {
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

describe('the openai client', () => {
  test('gets a completion that equals the oracle, under the public name', async () => {
    const openai = await withoutModel({ adapter: at.demo.digest('triage'), model: 'support' })
    const { text: prompt, ids } = demoOracle.prompts[0]!
    const expected = demoOracle.greedy.continuations.triage![0]!
    const found = await openai.completions.create({ model: '-', prompt, temperature: 0, max_tokens: 32 })
    expect(found).toMatchObject({
      object: 'text_completion',
      model: 'support',
      choices: [{ index: 0, text: expected.text, finish_reason: expected.ids.at(-1) === 2 ? 'stop' : 'length' }],
      usage: {
        prompt_tokens: ids.length,
        completion_tokens: expected.ids.length,
        total_tokens: ids.length + expected.ids.length,
      },
    })
    expect(found.id).toMatch(/^cmpl-/)
  })

  test('streams a chat that is the same text as the whole answer', async () => {
    const openai = await withoutModel({ adapter: at.demo.digest('dates') })
    const whole = await openai.chat.completions.create(chatOf(MESSAGE))
    expect(whole.object).toBe('chat.completion')
    const stream = await openai.chat.completions.create({
      ...chatOf(MESSAGE),
      stream: true,
      stream_options: { include_usage: true },
    })
    const chunks: OpenAI.ChatCompletionChunk[] = []
    for await (const chunk of stream) chunks.push(chunk)
    expect(chunks.every(({ object, model }) => object === 'chat.completion.chunk' && model === 'house-model')).toBe(
      true,
    )
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1)
    expect(chunks[0]!.choices[0]!.delta).toEqual({ role: 'assistant', content: '' })
    expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join('')).toBe(
      whole.choices[0]!.message.content,
    )
    expect(chunks.at(-2)!.choices[0]!.finish_reason).toBe(whole.choices[0]!.finish_reason)
    // The prompt has run before.
    const { prompt_tokens_details: _, ...usage } = whole.usage!
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage })
    expect(chunks.slice(0, -1).every(({ usage }) => usage === null)).toBe(true)
  })

  test('aborts a stream, and the engine stops the row', async () => {
    const openai = await withoutModel()
    const stream = await openai.chat.completions.create({
      ...chatOf('abort me'),
      temperature: 1,
      seed: 3,
      max_tokens: 400,
      stream: true,
    })
    let seen = 0
    const before = at.logged.length
    for await (const _ of stream) if (++seen === 3) stream.controller.abort()
    const generation = await eventually(() => at.logged.slice(before).find(({ event }) => event === 'generation'))
    expect(generation).toMatchObject({ outcome: 'aborted' })
    expect(generation!.completionTokens).toBeLessThan(100)
  })

  test('gives up on a whole answer, and the engine stops the row', async () => {
    const controller = new AbortController()
    const before = at.logged.length
    const body = JSON.stringify({ prompt: 'In the', seed: 5, max_tokens: 480 })
    const as = { adapter: at.demo.digest('dates') }
    const answer = at.call(paths.completions, { method: 'POST', body, signal: controller.signal, as })
    await eventually(async () => {
      const { data } = await read(at.call(paths.adapters, { as: { act: 'admin' } }))
      return data.find(({ digest, pins }) => digest === as.adapter && pins > 0)
    })
    controller.abort()
    await expect(answer).rejects.toThrow()
    const generation = await eventually(() => at.logged.slice(before).find(({ event }) => event === 'generation'))
    expect(generation).toMatchObject({ outcome: 'aborted' })
  })

  test('reads an error as an error of its own', async () => {
    const openai = await withoutModel({ adapter: 'f'.repeat(64) })
    const refused = openai.chat.completions.create(chatOf('hello'))
    await expect(refused).rejects.toBeInstanceOf(OpenAI.NotFoundError)
    await expect(refused).rejects.toMatchObject({ status: 404, code: 'model_not_found' })
  })
})

describe('streams', () => {
  test('end with [DONE], and carry usage in every chunk where asked', async () => {
    const body = {
      prompt: 'In the',
      max_tokens: 5,
      temperature: 0,
      stream: true,
      stream_options: { continuous_usage_stats: true },
    }
    const answer = await at.post(paths.completions, body)
    expect(answer.headers.get('content-type')).toContain('text/event-stream')
    const events = (await answer.text()).trimEnd().split('\n\n')
    expect(events.at(-1)).toBe('data: [DONE]')
    const usages = events.slice(0, -1).map((event) => JSON.parse(event.slice(6)).usage.completion_tokens)
    expect(usages).toEqual([1, 2, 3, 4, 5])
  })

  test('a refusal before the first token has its own status', async () => {
    const answer = await at.post(paths.chat, {
      messages: [{ role: 'user', content: 'x' }],
      stream: true,
      max_tokens: 600,
    })
    expect(answer.status).toBe(400)
    expect((await read(answer)).error.code).toBe('context_length_exceeded')
  })

  test('a stop string ends the text before it', async () => {
    const base = { prompt: demoOracle.prompts[1]!.text, temperature: 0, max_tokens: 12 }
    const { choices } = await read(at.post(paths.completions, base))
    const full = choices[0]!.text
    const stop = full.slice(6, 9)
    const cut = await read(at.post(paths.completions, { ...base, stop }))
    expect(cut.choices[0]).toMatchObject({ text: full.slice(0, full.indexOf(stop)), finish_reason: 'stop' })
    expect(cut.usage.completion_tokens).toBeLessThan(12)
  })

  test('a seed gives the same text twice', async () => {
    const ask = async (): Promise<string> =>
      (await read(at.post(paths.completions, { prompt: 'The', seed: 11, max_tokens: 20 }))).choices[0]!.text
    expect(await ask()).toBe(await ask())
  })
})

test('the logs hold no prompt, no answer and no secret', () => {
  const text = JSON.stringify(at.logged)
  expect(at.logged.length).toBeGreaterThan(10)
  for (const secret of [SECRET, 'Bearer', 'eyJ', 'server is down', 'In the']) expect(text).not.toContain(secret)
})
