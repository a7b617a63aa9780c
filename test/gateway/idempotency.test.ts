// Idempotency-Key: under one key a request runs and is charged at most once, and nobody gets what another asked.
import { env } from 'cloudflare:workers'
import OpenAI from 'openai'
import { beforeEach, describe, expect, it } from 'vitest'
import { MAX_KEPT_CHARS } from '../../gateway/usage/idempotency.ts'
import { createFakeBackend } from './fake-backend.ts'
import { adapter, allow, createHouse, type House, seed, toTenant } from './house.ts'

let house: House
let key: { id: string; key: string }
beforeEach(async () => {
  house = await createHouse()
  await seed(house)
  await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
  key = await house.mint('acme')
})

async function ask(idempotencyKey: string, more: object = {}, by = key.key, at: House = house, path = 'completions') {
  const { response, finish } = await at.open(`/v1/${path}`, {
    method: 'POST',
    headers: {
      authorization: `Bearer ${by}`,
      'content-type': 'application/json',
      'idempotency-key': idempotencyKey,
    },
    body: JSON.stringify({ model: 'red', prompt: 'hi', ...more }),
  })
  const text = await response.text()
  await finish()
  const code: unknown = response.status >= 400 ? JSON.parse(text).error.code : null
  return { status: response.status, headers: response.headers, text, code }
}
const rows = async () =>
  (await env.DB.prepare('SELECT count(*) AS n FROM usage WHERE key_id = ?').bind(key.id).first<{ n: number }>())?.n

describe('a request under an Idempotency-Key', () => {
  it('is answered again with the same bytes and receipt, runs once and is charged once', async () => {
    const first = await ask('a')
    const second = await ask('a', { temperature: undefined })
    expect([first.status, second.status, second.text]).toEqual([200, 200, first.text])
    expect(second.headers.get('x-sidepath-receipt')).toBe(first.headers.get('x-sidepath-receipt'))
    expect([first.headers.get('idempotent-replayed'), second.headers.get('idempotent-replayed')]).toEqual([
      null,
      'true',
    ])
    expect(house.backend.seen).toHaveLength(1)
    expect(await rows()).toBe(1)
  })

  it('is the same request whatever the order of its fields, and another with any other field', async () => {
    await ask('order', { temperature: 1, seed: 2 })
    expect((await ask('order', { seed: 2, temperature: 1 })).headers.get('idempotent-replayed')).toBe('true')
    for (const more of [{ seed: 3, temperature: 1 }, {}, { seed: 2, temperature: 1, stream: true }, { prompt: 'ho' }]) {
      const reply = await ask('order', more)
      expect([reply.status, reply.code]).toEqual([422, 'idempotency_key_reused'])
    }
    expect(house.backend.seen).toHaveLength(1)
  })

  it('of 20 at once runs once; the others are told to come back, and then get its answer', async () => {
    const backend = createFakeBackend()
    const { promise: mayAnswer, resolve: answer } = Promise.withResolvers<void>()
    let dispatched = 0
    const gated = await createHouse({
      fetch: async (url, init) => {
        dispatched++
        await mayAnswer
        return backend.fetch(url, init)
      },
      timeouts: { firstByteMs: 60_000, idleMs: 60_000, wholeAnswerMs: 60_000, readinessMs: 50 },
    })
    let running = 20
    const asked = Array.from({ length: 20 }, async () => {
      const reply = await ask('crowd', {}, key.key, gated)
      running--
      return reply
    })
    while (running > 1 || dispatched < 1) await new Promise((resolve) => setTimeout(resolve, 1))
    answer()
    const replies = await Promise.all(asked)
    const early = replies.filter(({ status }) => status === 425)
    expect([dispatched, early.length]).toEqual([1, 19])
    for (const { code, headers } of early) {
      expect([code, headers.get('retry-after'), headers.get('x-should-retry')]).toEqual([
        'idempotency_in_progress',
        '1',
        'true',
      ])
    }
    expect((await ask('crowd')).headers.get('idempotent-replayed')).toBe('true')
    expect(await rows()).toBe(1)
  }, 60_000)

  it('is waited for by OpenAI’s own client', async () => {
    const backend = createFakeBackend()
    const { promise: mayAnswer, resolve: answer } = Promise.withResolvers<void>()
    const gated = await createHouse({
      fetch: async (url, init) => {
        await mayAnswer
        return backend.fetch(url, init)
      },
      timeouts: { firstByteMs: 60_000, idleMs: 60_000, wholeAnswerMs: 60_000, readinessMs: 50 },
    })
    const statuses: number[] = []
    const client = new OpenAI({
      apiKey: key.key,
      baseURL: 'http://gateway.test/v1',
      fetch: async (url, init) => {
        const { response, finish } = await gated.open(String(url), init as RequestInit)
        const text = await response.text()
        await finish()
        statuses.push(response.status)
        if (response.status === 425) answer()
        return new Response(text, { status: response.status, headers: response.headers })
      },
    })
    const create = () =>
      client.completions.create({ model: 'red', prompt: 'hi' }, { headers: { 'Idempotency-Key': 'sdk' } })
    const [one, two] = await Promise.all([create(), create()])
    expect(two).toMatchObject({ choices: one.choices })
    expect(statuses.sort()).toEqual([200, 200, 425])
    expect(backend.seen).toHaveLength(1)
  }, 60_000)

  it('is one of its own for every key, tenant and route', async () => {
    const other = await house.mint('acme')
    await house.admin('PUT', '/tenants/zeta/grants/red', allow(toTenant, adapter('red')))
    const foreign = await house.mint('zeta')
    for (const by of [key.key, other.key, foreign.key]) {
      expect((await ask('shared', {}, by)).headers.get('idempotent-replayed')).toBeNull()
    }
    expect(house.backend.seen).toHaveLength(3)
    const chat = { prompt: undefined, messages: [{ role: 'user', content: 'hi' }] }
    expect((await ask('shared', chat, key.key, house, 'chat/completions')).code).toBe('idempotency_key_reused')
  })

  it('is authorised again: a revoked caller does not get the kept answer', async () => {
    await ask('revoked')
    await house.admin('PUT', '/tenants/acme/grants/no', { ...allow(toTenant, adapter('red')), effect: 'deny' })
    expect((await ask('revoked')).status).toBe(404)
    await house.admin('DELETE', '/tenants/acme/grants/no')
    expect((await ask('revoked')).headers.get('idempotent-replayed')).toBe('true')
  })

  it('is not answered again once the name leads to something else', async () => {
    await house.admin('PUT', '/tenants/acme/models/moving', { adapter: 'red' })
    await house.admin('PUT', '/tenants/acme/grants/blue', allow(toTenant, adapter('blue')))
    await ask('moved', { model: 'moving' })
    await house.admin('PUT', '/tenants/acme/models/moving', { adapter: 'blue' })
    expect((await ask('moved', { model: 'moving' })).code).toBe('idempotency_not_replayable')
    expect(house.backend.seen).toHaveLength(1)
  })

  it.each(['none', 'reset-mid-stream'] as const)('is spent after a stream that ended by %s', async (fault) => {
    house.backend.fail('one.test', fault)
    expect((await ask('stream', { stream: true })).status).toBe(200)
    const again = await ask('stream', { stream: true })
    expect([again.status, again.code, again.headers.get('x-should-retry')]).toEqual([
      422,
      'idempotency_not_replayable',
      'false',
    ])
    expect(house.backend.seen).toHaveLength(1)
    expect(await rows()).toBe(1)
  })

  it('may run again where nothing was charged: the backend was dead, or a limit was in the way', async () => {
    house.backend.fail('one.test', 'refuse-connection')
    expect((await ask('dead')).status).toBe(502)
    house.backend.fail('one.test', 'none')
    expect((await ask('dead')).headers.get('idempotent-replayed')).toBeNull()
    const limit = { scope: { kind: 'key', id: key.id }, metric: 'requests', window: 'day' }
    await house.admin('PUT', '/tenants/acme/limits/idem', { ...limit, amount: 0 })
    expect((await ask('limited')).status).toBe(429)
    // A kept answer takes nothing of the limit.
    expect((await ask('dead')).headers.get('idempotent-replayed')).toBe('true')
    await house.admin('PUT', '/tenants/acme/limits/idem', { ...limit, amount: 100 })
    expect((await ask('limited')).status).toBe(200)
  })

  it('is spent, not kept, where the answer is too large', async () => {
    const text = 'x'.repeat(MAX_KEPT_CHARS)
    const large = await createHouse({
      fetch: async () => Response.json({ choices: [{ text }], usage: { prompt_tokens: 1, completion_tokens: 1 } }),
    })
    expect((await ask('large', {}, key.key, large)).status).toBe(200)
    expect((await ask('large', {}, key.key, large)).code).toBe('idempotency_not_replayable')
  })

  it('is forgotten after 24 h, the answer with it', async () => {
    await ask('old')
    house.clock.now += 24 * 3_600_000
    expect((await ask('old')).headers.get('idempotent-replayed')).toBeNull()
    const kept = await env.DB.prepare('SELECT count(*) AS n FROM idempotency WHERE expires_at <= ?')
      .bind(house.clock.now)
      .first<{ n: number }>()
    expect(kept?.n).toBe(0)
  })

  it.each(['', ' ', 'a b', 'é', 'x'.repeat(256)])('refuses the key %j', async (bad) => {
    const reply = await house.open('/v1/completions', {
      method: 'POST',
      headers: new Headers([
        ['authorization', `Bearer ${key.key}`],
        ['content-type', 'application/json'],
        ['idempotency-key', bad],
      ]),
      body: JSON.stringify({ model: 'red', prompt: 'hi' }),
    })
    expect(reply.response.status).toBe(400)
    expect(await reply.response.json()).toMatchObject({ error: { code: 'invalid_value', param: 'Idempotency-Key' } })
  })
})
