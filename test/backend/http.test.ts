// The backend as its callers see it: over loopback, through the real `openai` client where OpenAI's API is spoken.
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Capability, paths } from '../../gpu-backend/contract.ts'
import { type Backend, serve } from '../../gpu-backend/serve.ts'
import { type Artifact, compileDemo, demoOracle } from './artifacts.ts'
import { claimsOf, mint, SECRET } from './mint.ts'

let demo: Artifact
let backend: Backend
const logged: Readonly<Record<string, unknown>>[] = []
const MESSAGE = 'The server is down. We signed on 21 June 2016. The laws of England apply.'

beforeAll(async () => {
  demo = await compileDemo()
  backend = await serve({ artifact: demo.path, secret: SECRET, port: 0, log: (event) => logged.push(event) })
})
afterAll(() => backend.close())

const capability = (given: Partial<Capability> = {}): Promise<string> => mint(claimsOf(backend.ready.base, given))
const client = async (given: Partial<Capability> = {}): Promise<OpenAI> =>
  new OpenAI({ apiKey: await capability(given), baseURL: `${backend.url}/v1`, maxRetries: 0 })
const chatOf = (content: string) => ({ model: '-', messages: [{ role: 'user' as const, content }], temperature: 0 })

async function call(path: string, init: RequestInit & { as?: Partial<Capability> } = {}): Promise<Response> {
  const { as, ...rest } = init
  const headers = { authorization: `Bearer ${await capability(as)}`, ...rest.headers }
  return fetch(backend.url + path, { ...rest, headers })
}
const post = (path: string, body: unknown, as: Partial<Capability> = {}): Promise<Response> =>
  call(path, { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body), as })

/** `model` is a field of OpenAI's clients; a gateway rebuilds the body without it. */
async function withoutModel(given: Partial<Capability> = {}): Promise<OpenAI> {
  const openai = await client(given)
  return openai.withOptions({
    fetch: (url, init) => {
      const { model: _, ...body } = JSON.parse(String(init?.body))
      return fetch(url, { ...init, body: JSON.stringify(body) } as RequestInit)
    },
  })
}

describe('the openai client', () => {
  test('gets a completion that equals the oracle, under the public name', async () => {
    const openai = await withoutModel({ adapter: demo.digest('triage'), model: 'support' })
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
    const openai = await withoutModel({ adapter: demo.digest('dates') })
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
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: whole.usage })
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
    const before = logged.length
    for await (const _ of stream) if (++seen === 3) stream.controller.abort()
    const generation = await eventually(() => logged.slice(before).find(({ event }) => event === 'generation'))
    expect(generation).toMatchObject({ outcome: 'aborted' })
    expect(generation!.completionTokens).toBeLessThan(100)
  })

  test('gives up on a whole answer, and the engine stops the row', async () => {
    const controller = new AbortController()
    const before = logged.length
    const body = JSON.stringify({ prompt: 'In the', seed: 5, max_tokens: 480 })
    const as = { adapter: demo.digest('dates') }
    const answer = call(paths.completions, { method: 'POST', body, signal: controller.signal, as })
    await eventually(async () => {
      const { data } = await read(call(paths.adapters, { as: { act: 'admin' } }))
      return data.find(({ digest, pins }) => digest === as.adapter && pins > 0)
    })
    controller.abort()
    await expect(answer).rejects.toThrow()
    const generation = await eventually(() => logged.slice(before).find(({ event }) => event === 'generation'))
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
    const answer = await post(paths.completions, body)
    expect(answer.headers.get('content-type')).toContain('text/event-stream')
    const events = (await answer.text()).trimEnd().split('\n\n')
    expect(events.at(-1)).toBe('data: [DONE]')
    const usages = events.slice(0, -1).map((event) => JSON.parse(event.slice(6)).usage.completion_tokens)
    expect(usages).toEqual([1, 2, 3, 4, 5])
  })

  test('a refusal before the first token has its own status', async () => {
    const answer = await post(paths.chat, { messages: [{ role: 'user', content: 'x' }], stream: true, max_tokens: 600 })
    expect(answer.status).toBe(400)
    expect((await read(answer)).error.code).toBe('context_length_exceeded')
  })

  test('a stop string ends the text before it', async () => {
    const base = { prompt: demoOracle.prompts[1]!.text, temperature: 0, max_tokens: 12 }
    const { choices } = await read(post(paths.completions, base))
    const full = choices[0]!.text
    const stop = full.slice(6, 9)
    const cut = await read(post(paths.completions, { ...base, stop }))
    expect(cut.choices[0]).toMatchObject({ text: full.slice(0, full.indexOf(stop)), finish_reason: 'stop' })
    expect(cut.usage.completion_tokens).toBeLessThan(12)
  })

  test('a seed gives the same text twice', async () => {
    const ask = async (): Promise<string> =>
      (await read(post(paths.completions, { prompt: 'The', seed: 11, max_tokens: 20 }))).choices[0]!.text
    expect(await ask()).toBe(await ask())
  })
})

describe('limits', () => {
  test('max_tokens is cut to what the capability allows', async () => {
    const answer = await post(paths.completions, { prompt: 'In the', max_tokens: 50, temperature: 0 }, { maxTokens: 2 })
    expect((await read(answer)).usage.completion_tokens).toBe(2)
  })

  test.each([
    [{ prompt: 'x', model: 'y' }, 'model'],
    [{ prompt: 'x', logprobs: 1 }, 'logprobs'],
    [{ prompt: 'x', stream_options: { other: true } }, 'stream_options.other'],
    [{ prompt: 'x', temperature: 3 }, 'temperature'],
    [{ prompt: 'x', stop: 'y'.repeat(1_001) }, 'stop'],
    [{ prompt: ['x'] }, 'prompt'],
    [{}, 'prompt'],
  ])('%j is refused by the name of its field', async (body, field) => {
    const answer = await post(paths.completions, body)
    expect(answer.status).toBe(400)
    const { error } = await read(answer)
    expect(error).toMatchObject({ type: 'invalid_request_error', param: field, code: 'request_invalid' })
    expect(error.message).toContain(`"${field}"`)
  })

  test('a body that is no JSON, no UTF-8 or too large is refused', async () => {
    expect((await post(paths.completions, '{')).status).toBe(400)
    expect((await call(paths.completions, { method: 'POST', body: Uint8Array.of(0xff) })).status).toBe(400)
    const large = await post(paths.completions, { prompt: 'x'.repeat(1_048_577) })
    expect([large.status, (await read(large)).error.code]).toEqual([413, 'request_too_large'])
  })

  test('a full queue says when to come back', async () => {
    const full = await serve({ artifact: demo.path, secret: SECRET, port: 0, log: () => {}, maxQueue: 0 })
    const authorization = `Bearer ${await mint(claimsOf(full.ready.base))}`
    const answer = await fetch(full.url + paths.completions, {
      method: 'POST',
      headers: { authorization },
      body: '{"prompt":"x"}',
    })
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([429, '1'])
    expect((await read(answer)).error).toMatchObject({ code: 'queue_full', type: 'rate_limit_error' })
    await full.close()
  })

  test('a prompt that is too long says how long', async () => {
    const { error } = await read(post(paths.completions, { prompt: '1'.repeat(600) }))
    expect(error).toMatchObject({ code: 'context_length_exceeded', message: expect.stringContaining('601 tokens') })
  })
})

describe('routes', () => {
  test('every one but the public two needs a capability, known or not', async () => {
    for (const path of [...Object.values(paths), '/', '/v1/models', '/metrics']) {
      if (path === paths.health || path === paths.ready) continue
      for (const method of ['GET', 'POST', 'DELETE']) {
        const answer = await fetch(backend.url + path, { method })
        expect(answer.status, `${method} ${path}`).toBe(401)
        expect((await read(answer)).error).toMatchObject({ type: 'authentication_error', code: 'capability_invalid' })
      }
    }
  })

  test('unknown ones are not found, and every answer has a request id', async () => {
    const answer = await call('/v1/models')
    expect([answer.status, (await read(answer)).error.code]).toEqual([404, 'route_not_found'])
    expect(answer.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/)
    const own = await call('/healthz', { headers: { 'x-request-id': 'mine-1' } })
    expect(own.headers.get('x-request-id')).toBe('mine-1')
    const bad = await call('/healthz', { headers: { 'x-request-id': 'a b' } })
    expect(bad.headers.get('x-request-id')).not.toBe('a b')
  })

  test('health and readiness say what a router needs', async () => {
    expect((await fetch(`${backend.url}${paths.health}`)).status).toBe(200)
    const ready = await (await fetch(`${backend.url}${paths.ready}`)).json()
    expect(ready).toEqual({ ready: true, base: demo.manifest.base.digest, slots: 8, free: 8 })
  })

  test('an adapter is loaded, listed and unloaded by who may', async () => {
    const adapter = demo.digest('clauses')
    const loaded = await read(post(paths.load, '', { act: 'load', adapter }))
    expect(loaded).toEqual({ digest: adapter, slot: expect.any(Number), loadedMs: expect.any(Number) })
    const list = async () => (await read(call(paths.adapters, { as: { act: 'admin' } }))).data
    expect(await list()).toContainEqual({ digest: adapter, slot: loaded.slot, pins: 0 })
    expect((await post(paths.unload, '', { act: 'admin', adapter })).status).toBe(200)
    expect((await list()).map(({ digest }) => digest)).not.toContain(adapter)
    expect((await post(paths.unload, '', { act: 'admin', adapter })).status).toBe(404)
    expect((await post(paths.load, '', { act: 'load', adapter: 'e'.repeat(64) })).status).toBe(404)
    expect((await post(paths.load, '', { act: 'load' })).status).toBe(400)
  })

  test.each([
    [paths.load, 'POST', 'infer'],
    [paths.unload, 'POST', 'load'],
    [paths.adapters, 'GET', 'infer'],
    [paths.chat, 'POST', 'admin'],
    [paths.completions, 'POST', 'load'],
  ] as const)('%s %s is not for a capability to %s', async (path, method, act) => {
    const answer = await call(path, { method, as: { act, adapter: demo.digest('dates') } })
    expect([answer.status, (await read(answer)).error.code]).toEqual([403, 'capability_scope'])
  })
})

describe('start and end', () => {
  test('a port in use is said so', async () => {
    const port = Number(new URL(backend.url).port)
    await expect(serve({ artifact: demo.path, secret: SECRET, port, log: () => {} })).rejects.toMatchObject({
      name: 'BackendError',
      code: 'port_in_use',
    })
  })

  test('without a secret nothing starts', async () => {
    await expect(serve({ artifact: demo.path, secret: '', port: 0 })).rejects.toMatchObject({ code: 'config_invalid' })
  })

  test('closing lets a stream finish and takes nothing new', async () => {
    const other = await serve({ artifact: demo.path, secret: SECRET, port: 0, log: () => {} })
    const authorization = `Bearer ${await mint(claimsOf(other.ready.base))}`
    const body = JSON.stringify({ prompt: 'In the', max_tokens: 30, seed: 1, stream: true })
    const answer = await fetch(other.url + paths.completions, { method: 'POST', headers: { authorization }, body })
    const closing = other.close()
    expect(await answer.text()).toContain('data: [DONE]')
    await closing
    await expect(fetch(other.url + paths.health)).rejects.toThrow()
  })

  test('closing does not wait for a stream for ever', async () => {
    const other = await serve({ artifact: demo.path, secret: SECRET, port: 0, log: () => {}, drainMs: 1 })
    const authorization = `Bearer ${await mint(claimsOf(other.ready.base))}`
    const body = JSON.stringify({ prompt: 'In the', max_tokens: 480, seed: 1, stream: true })
    const answer = await fetch(other.url + paths.completions, { method: 'POST', headers: { authorization }, body })
    await other.close()
    await expect(answer.text()).rejects.toThrow()
  })
})

test('logs hold no prompt, no answer and no secret', () => {
  const text = JSON.stringify(logged)
  expect(logged.length).toBeGreaterThan(20)
  for (const secret of [SECRET, 'Bearer', 'eyJ', 'server is down', 'In the']) expect(text).not.toContain(secret)
})

/** What an answer may hold, as far as these tests look at it. */
interface Answer {
  error: { code: string; message: string; type: string; param: string | null }
  choices: { text: string; finish_reason: string }[]
  usage: { completion_tokens: number }
  data: { digest: string; slot: number; pins: number }[]
  slot: number
}

async function read(answer: Response | Promise<Response>): Promise<Answer> {
  return (await (await answer).json()) as Answer
}

async function eventually<T>(look: () => T | undefined | Promise<T | undefined>): Promise<T> {
  for (;;) {
    const found = await look()
    if (found !== undefined) return found
    await new Promise((resolve) => setImmediate(resolve))
  }
}
