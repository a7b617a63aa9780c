// Limits: exact under concurrency, settled with what was used, released on an abort, and free again after a crash.
import { env } from 'cloudflare:workers'
import { beforeEach, describe, expect, it } from 'vitest'
import { LEASE_MS } from '../../gateway/limits/lease.ts'
import { createFakeBackend } from './fake-backend.ts'
import { adapter, allow, BASE, base, createHouse, type House, NOW, seed, toTenant } from './house.ts'

let house: House
let key: { id: string; key: string }
beforeEach(async () => {
  house = await createHouse()
  await seed(house)
  await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
  await house.admin('PUT', '/tenants/acme/grants/blue', allow(toTenant, adapter('blue')))
  await house.admin('PUT', '/tenants/acme/grants/base', allow(toTenant, base))
  key = await house.mint('acme')
  const { results } = await env.DB.prepare('SELECT id FROM limits').all<{ id: string }>()
  for (const { id } of results) await env.DB.prepare('UPDATE limits SET disabled = 1 WHERE id = ?').bind(id).run()
})

let names = 0
/** Every test has limits of its own, since a file has one database. */
async function limit(scope: object, metric: string, window: string, amount: number): Promise<string> {
  const id = `limit-${names++}`
  await house.admin('PUT', `/tenants/acme/limits/${id}`, { scope, metric, window, amount })
  return id
}
const windowsOf = async (id: string) => (await house.admin('GET', `/tenants/acme/limits/${id}/windows`)).json.data
const rowOf = (requestId: string | null) =>
  env.DB.prepare('SELECT * FROM usage WHERE request_id = ?').bind(requestId).first<Record<string, unknown>>()
const statuses = (replies: readonly { status: number }[]) => {
  const counts = Map.groupBy(replies, ({ status }) => status)
  return Object.fromEntries([...counts].map(([status, { length }]) => [status, length]))
}
/** The prompt `hi` is 2 bytes, and the bound adds 64; the tenant's maxTokens is 64. */
const BOUND = 66 + 64
/** What the fake backend counts. */
const TOOK = 7 + 3

describe('a limit', () => {
  it.each([
    ['requests', 50],
    // Fifty bounds fit, and not a token more; requests that settle make room, so none may settle before all have asked.
    ['tokens', 50 * BOUND],
  ] as const)(
    'of 50 in %s admits exactly 50 of 200 parallel requests',
    async (metric, amount) => {
      const id = await limit({ kind: 'key', id: key.id }, metric, 'day', amount)
      const backend = createFakeBackend()
      const { promise: mayAnswer, resolve: answer } = Promise.withResolvers<void>()
      let dispatched = 0
      const gated = await createHouse({
        fetch: async (url, init) => {
          // A backend that is silent for long is asked whether it is there.
          if (!url.endsWith('/v1/completions')) return backend.fetch(url, init)
          dispatched++
          await mayAnswer
          return backend.fetch(url, init)
        },
        timeouts: { firstByteMs: 60_000, idleMs: 60_000, wholeAnswerMs: 60_000, readinessMs: 50 },
      })
      let running = 200
      const asked = Array.from({ length: 200 }, async () => {
        const reply = await gated.ask(key.key, 'red')
        running--
        return reply
      })
      // The refused are answered while the admitted wait for the backend.
      while (running > 50 || dispatched < 50) await new Promise((resolve) => setTimeout(resolve, 1))
      expect([running, dispatched]).toEqual([50, 50])
      expect(await windowsOf(id)).toMatchObject([
        metric === 'requests' ? { used: 50, held: 0 } : { used: 0, held: amount },
      ])
      answer()
      expect(statuses(await Promise.all(asked))).toEqual({ 200: 50, 429: 150 })
      expect(dispatched).toBe(50)
      expect(await windowsOf(id)).toMatchObject([{ used: metric === 'requests' ? 50 : 50 * TOOK, held: 0 }])
      const rows = await env.DB.prepare("SELECT count(*) AS n FROM usage WHERE key_id = ? AND status = 'settled'")
        .bind(key.id)
        .first<{ n: number }>()
      expect(rows?.n).toBe(50)
    },
    60_000,
  )

  it('of requests counts each one, however it ends, and opens again with the next window', async () => {
    await limit({ kind: 'key', id: key.id }, 'requests', 'minute', 2)
    house.clock.now = NOW - (NOW % 60_000) + 15_000
    house.backend.fail('one.test', { status: 503 })
    expect((await house.ask(key.key, 'red')).status).toBe(503)
    house.backend.fail('one.test', 'none')
    expect((await house.ask(key.key, 'red')).status).toBe(200)
    const full = await house.ask(key.key, 'red')
    expect([full.status, full.json.error.code, full.json.error.type]).toEqual([
      429,
      'rate_limit_exceeded',
      'rate_limit_error',
    ])
    expect([full.headers.get('retry-after'), full.headers.get('x-should-retry')]).toEqual(['45', 'true'])
    expect(house.backend.seen).toHaveLength(2)
    house.clock.now += 45_000
    expect((await house.ask(key.key, 'red')).status).toBe(200)
  })

  it('of a day is a quota, which no SDK is told to retry', async () => {
    await limit({ kind: 'tenant' }, 'requests', 'day', 1)
    await house.ask(key.key, 'red')
    const reply = await house.ask(key.key, 'red')
    expect([reply.status, reply.json.error.code, reply.json.error.type]).toEqual([
      429,
      'insufficient_quota',
      'insufficient_quota',
    ])
    expect(reply.headers.get('x-should-retry')).toBe('false')
    expect(Number(reply.headers.get('retry-after'))).toBe((86_400_000 - (NOW % 86_400_000)) / 1000)
  })

  it('that one request alone would pass says so, and is not worth another try', async () => {
    await limit({ kind: 'key', id: key.id }, 'tokens', 'minute', BOUND - 1)
    const reply = await house.ask(key.key, 'red')
    expect([reply.status, reply.headers.get('x-should-retry')]).toEqual([429, 'false'])
    expect(reply.json.error).toMatchObject({ code: 'rate_limit_exceeded' })
    expect((await house.ask(key.key, 'red', { max_tokens: 63 })).status).toBe(200)
  })

  it('holds the bound of a request while it runs and counts what it took once it ends', async () => {
    const id = await limit({ kind: 'key', id: key.id }, 'tokens', 'day', 10_000)
    const { reader, finish } = await openStream()
    await reader.read()
    expect(await windowsOf(id)).toMatchObject([{ used: 0, held: BOUND }])
    while (!(await reader.read()).done);
    await finish()
    expect(await windowsOf(id)).toMatchObject([{ used: TOOK, held: 0 }])
  })

  it('releases what an aborted request held, and counts what was generated', async () => {
    const id = await limit({ kind: 'key', id: key.id }, 'tokens', 'day', 10_000)
    house.backend.fail('one.test', 'hang-mid-stream')
    const { reader, finish, requestId } = await openStream()
    await reader.read()
    await reader.read()
    await reader.cancel()
    await finish()
    expect(await windowsOf(id)).toMatchObject([{ used: 7 + 2, held: 0 }])
    expect(await rowOf(requestId)).toMatchObject({ status: 'aborted', charge: 'measured', held_until: null })
  })

  it('counts once what a backend generated before it died in mid-stream, and asks no other', async () => {
    await house.admin('PUT', '/backends/two', { url: 'http://two.test', base: BASE })
    for (const host of ['one.test', 'two.test']) house.backend.fail(host, 'reset-mid-stream')
    const id = await limit({ kind: 'key', id: key.id }, 'tokens', 'day', 10_000)
    const before = await countRows()
    const reply = await house.ask(key.key, 'red', { stream: true })
    expect(reply.text).toContain('upstream_interrupted')
    expect(house.backend.seen).toHaveLength(1)
    expect(await countRows()).toBe(before + 1)
    expect(await windowsOf(id)).toMatchObject([{ used: 7 + 2, held: 0 }])
    await house.admin('PUT', '/backends/two', { url: 'http://two.test', base: BASE, enabled: false })
  })

  it('counts nothing of a request that no backend began to answer', async () => {
    const id = await limit({ kind: 'key', id: key.id }, 'tokens', 'day', 10_000)
    house.backend.fail('one.test', 'refuse-connection')
    const reply = await house.ask(key.key, 'red')
    expect(reply.status).toBe(502)
    expect(await windowsOf(id)).toMatchObject([{ used: 0, held: 0 }])
    expect(await rowOf(reply.headers.get('x-request-id'))).toMatchObject({ status: 'failed', charge: 'nothing' })
  })

  it('counts the bound where the backend does not say what it generated', async () => {
    const id = await limit({ kind: 'key', id: key.id }, 'tokens', 'day', 10_000)
    house.backend.fail('one.test', 'no-usage')
    const reply = await house.ask(key.key, 'red', { max_tokens: 5 })
    expect(await windowsOf(id)).toMatchObject([{ used: 66 + 5, held: 0 }])
    expect(await rowOf(reply.headers.get('x-request-id'))).toMatchObject({ charge: 'bound', prompt_tokens: null })
  })

  it('is free again when the gateway that held it has died, and a late settling is still counted, once', async () => {
    const id = await limit({ kind: 'key', id: key.id }, 'tokens', 'day', BOUND)
    const { reader, finish } = await openStream()
    await reader.read()
    const full = await house.ask(key.key, 'red')
    expect([full.status, full.headers.get('retry-after')]).toEqual([429, '1'])
    house.clock.now += LEASE_MS
    expect((await house.ask(key.key, 'red')).status).toBe(200)
    expect(await windowsOf(id)).toMatchObject([{ used: TOOK, held: 0 }])
    while (!(await reader.read()).done);
    await finish()
    expect(await windowsOf(id)).toMatchObject([{ used: 2 * TOOK, held: 0 }])
  })

  it('of several refuses by any, and then nothing is counted on the others', async () => {
    const wide = await limit({ kind: 'tenant' }, 'requests', 'day', 100)
    const narrow = await limit({ kind: 'adapter', id: 'red' }, 'requests', 'day', 1)
    expect((await house.ask(key.key, 'red')).status).toBe(200)
    expect((await house.ask(key.key, 'red')).status).toBe(429)
    expect((await house.ask(key.key, 'red+blue')).status).toBe(429)
    expect((await house.ask(key.key, 'blue')).status).toBe(200)
    expect((await house.ask(key.key, 'plain')).status).toBe(200)
    expect(await windowsOf(wide)).toMatchObject([{ used: 3 }])
    expect(await windowsOf(narrow)).toMatchObject([{ used: 1 }])
  })

  it('for each has a count for every one', async () => {
    const id = await limit({ kind: 'each-key' }, 'requests', 'day', 1)
    const other = await house.mint('acme')
    for (const each of [key, other]) {
      expect((await house.ask(each.key, 'red')).status).toBe(200)
      expect((await house.ask(each.key, 'red')).status).toBe(429)
    }
    expect((await windowsOf(id)).map(({ subject }) => subject).sort()).toEqual([key.id, other.id].sort())
  })

  it('of a user counts all keys of the user, and of another tenant nothing', async () => {
    await limit({ kind: 'user', id: 'ada' }, 'requests', 'day', 1)
    const [one, two] = [await house.mint('acme', { user: 'ada' }), await house.mint('acme', { user: 'ada' })]
    expect((await house.ask(one.key, 'red')).status).toBe(200)
    expect((await house.ask(two.key, 'red')).status).toBe(429)
    await house.admin('PUT', '/tenants/zeta/grants/red', allow(toTenant, adapter('red')))
    const foreign = await house.mint('zeta', { user: 'ada' })
    for (let i = 0; i < 3; i++) expect((await house.ask(foreign.key, 'red')).status).toBe(200)
  })

  it('leaves no exposure of a request that it refused', async () => {
    await house.admin('PUT', '/tenants/acme/experiments/capped', {
      arms: [
        { id: 'a', weight: 5_000, adapter: 'red' },
        { id: 'b', weight: 5_000, adapter: 'blue' },
      ],
    })
    await house.admin('PATCH', '/tenants/acme/experiments/capped', { status: 'running' })
    await house.admin('PUT', '/tenants/acme/models/capped', { experiment: 'capped' })
    const exposures = async () =>
      (await house.admin('GET', '/tenants/acme/experiments/capped/exposures')).json.data.length
    const id = await limit({ kind: 'key', id: key.id }, 'requests', 'day', 0)
    expect((await house.ask(key.key, 'capped')).status).toBe(429)
    expect(await exposures()).toBe(0)
    await house.admin('PUT', `/tenants/acme/limits/${id}`, {
      scope: { kind: 'key', id: key.id },
      metric: 'requests',
      window: 'day',
      amount: 1,
    })
    expect((await house.ask(key.key, 'capped')).status).toBe(200)
    expect(await exposures()).toBe(1)
  })

  it('cannot be turned into one of something else', async () => {
    const id = await limit({ kind: 'tenant' }, 'requests', 'day', 1)
    const reply = await house.call('PUT', `/admin/tenants/acme/limits/${id}`, house.adminKey, {
      scope: { kind: 'tenant' },
      metric: 'tokens',
      window: 'day',
      amount: 1,
    })
    expect([reply.status, reply.json.error.code]).toEqual([400, 'immutable'])
  })

  it('keeps the last 60 windows and no more', async () => {
    const id = await limit({ kind: 'key', id: key.id }, 'requests', 'minute', 5)
    for (let minute = 0; minute < 70; minute++) {
      await house.ask(key.key, 'red')
      house.clock.now += 60_000
    }
    const rows = await env.DB.prepare('SELECT count(*) AS n FROM limit_windows WHERE limit_id = ?')
      .bind(id)
      .first<{ n: number }>()
    expect(rows?.n).toBe(61)
  })
})

async function openStream() {
  const { response, finish } = await house.open('/v1/completions', {
    method: 'POST',
    headers: { authorization: `Bearer ${key.key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'red', prompt: 'hi', stream: true }),
  })
  const reader: ReadableStreamDefaultReader<Uint8Array> = response.body!.getReader()
  return { reader, finish, requestId: response.headers.get('x-request-id') }
}

async function countRows(): Promise<number> {
  const row = await env.DB.prepare('SELECT count(*) AS n FROM usage').first<{ n: number }>()
  return row?.n ?? 0
}
