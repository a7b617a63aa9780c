// A foreign backend on both hosts: activation, answers and streams, cut into any pieces, and what its row may say.
// Real servers of each kind are in on-node/.
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter, allow, BASE, base, createHouse, digest, type House, seed, toTenant } from './house.ts'

const RED = digest('1')
const encoder = new TextEncoder()

let house: House
let key: string
/** The pieces that a stream comes in. */
let pieces: readonly Uint8Array[] = []
let aborted = 0
let pulled = 0

const chunk = (text: string, finish: string | null = null) =>
  `data: ${JSON.stringify({ id: 'leak', model: 'leak', system_fingerprint: 'leak', choices: [{ index: 0, text, finish_reason: finish }] })}\r\n\r\n`
const counted = `data: ${JSON.stringify({ model: 'leak', choices: [], usage: { prompt_tokens: 7, completion_tokens: 2 } })}\n\n`
const STREAM = `: a comment\n\n${chunk('hé')}${chunk('llo', 'stop')}${counted}data: [DONE]\n\ndata: {"after":"the end"}\n\n`

async function fetch(url: string, init: RequestInit): Promise<Response> {
  const { pathname } = new URL(url)
  if (init.method !== 'POST') return new Response('', { status: pathname === '/health' ? 200 : 404 })
  const body = JSON.parse(String(init.body))
  if (body.stream === true) {
    let at = 0
    const signal = init.signal as AbortSignal
    const stream = new ReadableStream<Uint8Array>({
      start(sink) {
        signal.addEventListener('abort', () => {
          aborted += 1
          sink.error(signal.reason)
        })
      },
      pull(sink) {
        pulled += 1
        const piece = pieces[at++]
        if (piece === undefined) sink.close()
        else sink.enqueue(piece)
      },
    })
    return new Response(stream, { headers: { 'content-type': 'text/event-stream' } })
  }
  return Response.json({
    id: 'leak',
    model: 'leak',
    choices: [{ index: 0, text: `${body.model} ran`, finish_reason: 'stop' }],
    usage: { prompt_tokens: 7, completion_tokens: 2 },
  })
}

const row = { url: 'http://vllm.test', base: BASE, driver: 'vllm', baseModel: 'tiny' }
const open = (more: object = {}) =>
  house.open('/v1/completions', {
    method: 'POST',
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'red', prompt: 'x', stream: true, ...more }),
  })

beforeAll(async () => {
  house = await createHouse({
    fetch,
    timeouts: { wholeAnswerMs: 5_000, firstByteMs: 5_000, connectMs: 5_000, idleMs: 5_000 },
  })
  await seed(house)
  const { admin } = house
  await admin('PUT', '/backends/one', { url: 'http://one.test', base: BASE, enabled: false })
  await admin('PUT', '/backends/foreign', row)
  await admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
  await admin('PUT', '/tenants/acme/grants/base', allow(toTenant, base))
  key = (await house.mint('acme')).key
  await admin('PUT', `/backends/foreign/adapters/${RED}`, { upstream: 'red-v1' })
  const { json } = await admin('POST', `/backends/foreign/adapters/${RED}/probe`, {})
  expect(json.status).toBe('active')
})

describe('a foreign backend', () => {
  it('answers under the public name', async () => {
    const reply = await house.ask(key, 'red')
    expect(reply.json).toEqual({
      id: `cmpl-${reply.headers.get('x-request-id')}`,
      object: 'text_completion',
      created: expect.any(Number),
      model: 'red',
      choices: [{ index: 0, text: 'red-v1 ran', finish_reason: 'stop' }],
      usage: { prompt_tokens: 7, completion_tokens: 2 },
    })
  })

  it.each([1, 2, 3, 7, 1_000])('streams the same, cut into pieces of %i bytes', async (size) => {
    const bytes = encoder.encode(STREAM)
    pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) => bytes.slice(at * size, (at + 1) * size))
    const { response, finish } = await open()
    const text = await response.text()
    await finish()
    const events = text.split('\n\n').filter(Boolean)
    expect(events.at(-1)).toBe('data: [DONE]')
    const chunks = events.slice(0, -1).map((event) => JSON.parse(event.slice('data: '.length)))
    expect(
      chunks.map(({ choices, usage }) => [choices[0].text, choices[0].finish_reason, usage?.completion_tokens]),
    ).toEqual([
      ['hé', null, undefined],
      ['llo', 'stop', 2],
    ])
    expect(text).not.toContain('leak')
  })

  it.each([
    ['an event without end', [`data: ${'x'.repeat(600_000)}`, 'x'.repeat(600_000)]],
    ['no JSON', ['data: {"choices"\n\n']],
    ['another form', ['data: {"choices":[{"index":"0"}]}\n\n']],
    ['bytes that are no text', ['data: \xff']],
    ['an error first', ['data: {"error":{"message":"leak"}}\n\n']],
    ['nothing', ['data: [DO']],
  ])('that streams %s has not answered', async (what, texts) => {
    // A fresh breaker for each: what is at fault here is not the order of the tests.
    await house.admin('PUT', '/backends/foreign', { ...row, prefix: `/${what.replaceAll(' ', '-')}` })
    const toBytes = (text: string) =>
      text.includes('\xff') ? Uint8Array.from(text, (char) => char.charCodeAt(0)) : encoder.encode(text)
    pieces = texts.map(toBytes)
    const reply = await house.ask(key, 'plain', { stream: true })
    expect([reply.status, reply.json.error.type]).toEqual([502, 'api_error'])
    expect(reply.text).not.toContain('leak')
  })

  it('is not read ahead of its caller, and is told when the caller leaves', async () => {
    await house.admin('PUT', '/backends/foreign', row)
    const bytes = encoder.encode(chunk('x'.repeat(1_000)))
    pieces = Array.from({ length: 1_000 }, () => bytes)
    pulled = 0
    aborted = 0
    const { response, finish } = await open({ model: 'plain' })
    const reader = response.body!.getReader()
    for (let i = 0; i < 10; i++) await reader.read()
    expect(pulled).toBeLessThan(20)
    await reader.cancel()
    await finish()
    expect(aborted).toBe(1)
  })
})

describe('the row of a backend', () => {
  it.each([
    ['driver', { driver: 'other' }],
    ['baseModel', { baseModel: '' }],
    ['baseModel', { driver: 'sglang', baseModel: 'a:b' }],
    ['baseModel', { driver: 'workers-ai', baseModel: '../../x' }],
    ['baseModel', { driver: 'sidepath' }],
    ['secret', { driver: 'sidepath', baseModel: '', secret: 'UPSTREAM_A' }],
    ['prefix', { driver: 'sidepath', baseModel: '', prefix: '/x' }],
    ['prefix', { prefix: '/x/' }],
    ['prefix', { prefix: '/../x' }],
    ['prefix', { prefix: '//evil.test' }],
    ['prefix', { prefix: '@evil.test' }],
    ['mayLoad', { driver: 'openai', mayLoad: true }],
  ])('is refused at %s for %j', async (field, more) => {
    const reply = await house.call('PUT', '/admin/backends/bad', house.adminKey, {
      ...row,
      url: 'http://bad.test',
      ...more,
    })
    expect([reply.status, reply.json.error.param]).toEqual([400, field])
  })

  it('of one of ours takes no names of adapters, and of any no name twice or of the base', async () => {
    const put = async (id: string, adapterDigest: string, upstream: string) => {
      const reply = await house.call('PUT', `/admin/backends/${id}/adapters/${adapterDigest}`, house.adminKey, {
        upstream,
      })
      return [reply.status, reply.json.error?.code]
    }
    await house.admin('PUT', '/backends/foreign', row)
    expect(await put('one', RED, 'x')).toEqual([400, 'not_needed'])
    expect(await put('foreign', digest('2'), 'red-v1')).toEqual([400, 'already_exists'])
    expect(await put('foreign', digest('2'), 'tiny')).toEqual([400, 'invalid_value'])
    expect(await put('foreign', digest('2'), '../x')).toEqual([400, 'invalid_value'])
    expect(await put('foreign', digest('9'), 'x')).toEqual([400, 'unknown_reference'])
    expect(await put('nowhere', RED, 'x')).toEqual([404, 'not_found'])
    await house.admin('DELETE', `/backends/foreign/adapters/${RED}`)
    expect((await house.ask(key, 'red')).json.error.code).toBe('no_backend')
  })
})
