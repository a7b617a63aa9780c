// Leases of limits, and rows that are written together: exact by however many gateways, whatever dies or comes twice.
import { env } from 'cloudflare:workers'
import { beforeEach, describe, expect, it } from 'vitest'
import type { Claim } from '../../gateway/limits/claim.ts'
import { BLOCK_SHARE, LEASE_MS } from '../../gateway/limits/lease.ts'
import { writeReports } from '../../gateway/limits/lease-statements.ts'
import { Leases } from '../../gateway/limits/leases.ts'
import { Ledger } from '../../gateway/usage/ledger.ts'
import type { UsageRow } from '../../gateway/usage/usage-rows.ts'
import { createFakeBackend } from './fake-backend.ts'
import { adapter, allow, BASE, createHouse, digest, type House, NOW, seed, toTenant } from './house.ts'

let house: House
let key: { id: string; key: string }
beforeEach(async () => {
  house = await createHouse()
  await seed(house)
  await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
  key = await house.mint('acme')
})

let names = 0
const DAY = 86_400_000
const START = NOW - (NOW % DAY)
const claimOf = (limit: string, most: number, held: number): Claim => ({
  ...{ limit, metric: 'tokens', subject: '', start: START, end: START + DAY, most, taken: 0, held },
})
const windowOf = async (limit: string) => {
  const row = await env.DB.prepare('SELECT used, held FROM limit_windows WHERE limit_id = ?').bind(limit).first()
  return row && { ...row }
}
const leasesOf = async (limit: string) =>
  (await env.DB.prepare('SELECT amount FROM limit_leases WHERE limit_id = ?').bind(limit).all()).results.length
const tell = async (leases: Leases, now = NOW) => {
  const reports = leases.report(now)
  if (reports.length > 0) await env.DB.batch(writeReports(env.DB, reports) as D1PreparedStatement[])
  leases.told(reports)
  return reports
}

describe('a lease', () => {
  it('is what waits and, beyond it, no more than its share of the room, and goes when it is given back', async () => {
    const limit = `lease-${names++}`
    const leases = new Leases(env.DB, 0)
    expect(await leases.obtain('acme', [claimOf(limit, 1_600, 10)], NOW)).toHaveLength(1)
    expect(await windowOf(limit)).toEqual({ used: 0, held: 1_600 / BLOCK_SHARE })
    // Nine more find room without a question.
    for (let i = 0; i < 9; i++) expect(leases.reserve('acme', [claimOf(limit, 1_600, 10)], NOW)).toHaveLength(1)
    expect(leases.reserve('acme', [claimOf(limit, 1_600, 10)], NOW)).toBeUndefined()
    const [reserved] = (await leases.obtain('acme', [claimOf(limit, 1_600, 700)], NOW)) ?? []
    expect(await windowOf(limit)).toEqual({ used: 0, held: 100 + 700 })
    reserved?.lease.settle(700, 30)
    for (let i = 0; i < 10; i++) reserved?.lease.settle(10, 1)
    await tell(leases)
    expect([await windowOf(limit), await leasesOf(limit), leases.isOwing]).toEqual([{ used: 40, held: 0 }, 0, false])
  })

  it('keeps what is spare for a while, and not into the next window', async () => {
    const limit = `lease-${names++}`
    const leases = new Leases(env.DB, 5_000)
    const [reserved] = (await leases.obtain('acme', [claimOf(limit, 1_600, 10)], NOW)) ?? []
    reserved?.lease.settle(10, 10)
    await tell(leases, NOW + 4_999)
    expect([await windowOf(limit), leases.isOwing]).toEqual([{ used: 10, held: 90 }, true])
    await tell(leases, NOW + 5_000)
    expect([await windowOf(limit), leases.isOwing]).toEqual([{ used: 10, held: 0 }, false])
    await leases.obtain('acme', [claimOf(limit, 1_600, 10)], START + DAY - 1)
    await tell(leases, START + DAY)
    expect((await windowOf(limit))?.held).toBe(10)
  })

  it('of a gateway that dies between lease and use is free again after its time, and not before', async () => {
    const limit = `lease-${names++}`
    const [dead, alive] = [new Leases(env.DB, 0), new Leases(env.DB, 0)]
    await dead.obtain('acme', [claimOf(limit, 100, 60)], NOW)
    expect(await alive.obtain('acme', [claimOf(limit, 100, 60)], NOW)).toBeUndefined()
    expect(await alive.obtain('acme', [claimOf(limit, 100, 60)], NOW + LEASE_MS - 1)).toBeUndefined()
    expect(await alive.obtain('acme', [claimOf(limit, 100, 60)], NOW + LEASE_MS)).toHaveLength(1)
    expect(await windowOf(limit)).toMatchObject({ used: 0 })
  })

  it('that has lapsed admits nobody, and what still ran on it is counted, once', async () => {
    const limit = `lease-${names++}`
    const [slow, quick] = [new Leases(env.DB, 0), new Leases(env.DB, 0)]
    const [reserved] = (await slow.obtain('acme', [claimOf(limit, 100, 60)], NOW)) ?? []
    const later = NOW + LEASE_MS
    expect(await quick.obtain('acme', [claimOf(limit, 100, 90)], later)).toHaveLength(1)
    expect(slow.reserve('acme', [claimOf(limit, 100, 1)], later)).toBeUndefined()
    reserved?.lease.settle(60, 50)
    await tell(slow, later)
    await tell(slow, later)
    expect(await windowOf(limit)).toEqual({ used: 50, held: 90 })
  })

  it('is reported on once, however often a report is sent', async () => {
    const limit = `lease-${names++}`
    const leases = new Leases(env.DB, 0)
    const [reserved] = (await leases.obtain('acme', [claimOf(limit, 100, 60)], NOW)) ?? []
    reserved?.lease.settle(60, 25)
    const reports = leases.report(NOW)
    for (let i = 0; i < 3; i++) await env.DB.batch(writeReports(env.DB, reports) as D1PreparedStatement[])
    leases.told(reports)
    await tell(leases)
    expect(await windowOf(limit)).toEqual({ used: 25, held: 0 })
  })

  it('counts what a backend took beyond the bound, and keeps what others run on', async () => {
    const limit = `lease-${names++}`
    const leases = new Leases(env.DB, 0)
    const [one] = (await leases.obtain('acme', [claimOf(limit, 100, 20)], NOW)) ?? []
    await leases.obtain('acme', [claimOf(limit, 100, 30)], NOW)
    one?.lease.settle(20, 70)
    await tell(leases)
    await tell(leases)
    expect(await windowOf(limit)).toEqual({ used: 70, held: 30 })
  })
})

describe('two gateways on one database', () => {
  it.each(['requests', 'tokens'])(
    'admit together exactly 50 of 200 parallel requests, counted in %s',
    async (metric) => {
      const id = `two-${names++}`
      // The prompt is bounded by 66 tokens, the answer by 64.
      const amount = metric === 'requests' ? 50 : 50 * 130
      await house.admin('PUT', `/tenants/acme/limits/${id}`, {
        scope: { kind: 'key', id: key.id },
        metric,
        window: 'day',
        amount,
      })
      const backend = createFakeBackend()
      const { promise: mayAnswer, resolve: answer } = Promise.withResolvers<void>()
      let dispatched = 0
      const gated = async () =>
        createHouse({
          fetch: async (url, init) => {
            if (!url.endsWith('/v1/completions')) return backend.fetch(url, init)
            dispatched++
            await mayAnswer
            return backend.fetch(url, init)
          },
          timeouts: { connectMs: 60_000, firstByteMs: 60_000, idleMs: 60_000, wholeAnswerMs: 60_000 },
          keeping: { lingerMs: 20, spareMs: 0, beforeDispatch: false },
        })
      const houses = [await gated(), await gated()]
      let running = 200
      const asked = Array.from({ length: 200 }, async (_, at) => {
        const reply = await (houses[at % 2] as House).ask(key.key, 'red')
        running--
        return reply.status
      })
      // The refused wait for their gateway's books, which the running keep open.
      while (dispatched < 50) await new Promise((resolve) => setTimeout(resolve, 1))
      await new Promise((resolve) => setTimeout(resolve, 100))
      expect([dispatched, running >= 50]).toEqual([50, true])
      answer()
      const statuses = Map.groupBy(await Promise.all(asked), (status) => status)
      expect([statuses.get(200)?.length, statuses.get(429)?.length, dispatched]).toEqual([50, 150, 50])
      expect(await windowOf(id)).toEqual({ used: metric === 'requests' ? 50 : 50 * 10, held: 0 })
      await house.admin('PUT', `/tenants/acme/limits/${id}`, {
        ...{ scope: { kind: 'key', id: key.id }, metric, window: 'day', amount, disabled: true },
      })
    },
    60_000,
  )
})

/** The same database; every batch is counted, and fails while it is told to. */
function watched() {
  const state = { batches: 0, away: false }
  const db = {
    prepare: (sql: string) => env.DB.prepare(sql),
    batch: (statements: D1PreparedStatement[]) => {
      if (state.away) throw new Error('D1_ERROR: database is locked: SQLITE_BUSY')
      state.batches++
      return env.DB.batch(statements)
    },
  }
  return { state, bindings: { ...env, DB: db, USAGE_QUEUE: undefined } }
}
const statusesOf = async (ids: readonly (string | null)[]) => {
  const { results } = await env.DB.prepare(
    'SELECT status FROM usage WHERE request_id IN (SELECT value FROM json_each(?))',
  )
    .bind(JSON.stringify(ids))
    .all<{ status: string }>()
  return results.map(({ status }) => status)
}

describe('rows that are gathered', () => {
  const gather = (lingerMs: number) => createHouse({ keeping: { lingerMs, spareMs: 0, beforeDispatch: false } })
  const ask = (at: House, bindings: object) =>
    at.call('POST', '/v1/completions', key.key, { model: 'red', prompt: 'hi' }, bindings)

  it('of many requests are in the database once the host is done with what they owe, in few batches', async () => {
    const at = await gather(20)
    const { state, bindings } = watched()
    await ask(at, bindings)
    state.batches = 0
    const replies = await Promise.all(Array.from({ length: 40 }, () => ask(at, bindings)))
    expect(await statusesOf(replies.map(({ headers }) => headers.get('x-request-id')))).toEqual(
      Array.from({ length: 40 }, () => 'settled'),
    )
    expect(state.batches).toBeLessThan(20)
  })

  it('wait for a database that is away: what was served is on record once it is back, and nothing is served before', async () => {
    const at = await gather(1)
    const { state, bindings } = watched()
    await ask(at, bindings)
    at.backend.seen.length = 0
    state.away = true
    const served = await ask(at, bindings)
    const refused = await ask(at, bindings)
    expect([served.status, refused.status, refused.json.error.code]).toEqual([200, 503, 'database_unavailable'])
    expect(at.backend.seen).toHaveLength(1)
    expect(await statusesOf([served.headers.get('x-request-id')])).toEqual([])
    state.away = false
    const after = await ask(at, bindings)
    const ids = [served, after].map(({ headers }) => headers.get('x-request-id'))
    expect([after.status, await statusesOf(ids)]).toEqual([200, ['settled', 'settled']])
  })

  it('that the database refuses for good are logged and keep back no other', async () => {
    const ledger = new Ledger(env.DB, { lingerMs: 0, spareMs: 0, beforeDispatch: false }, () => NOW)
    const rowOf = (requestId: string, baseDigest: string): UsageRow => ({
      ...{ requestId, tenantId: 'acme', keyId: key.id, userId: null, model: 'red', baseDigest, adapterId: null },
      ...{ adapterDigest: null, grantId: 'red', experimentId: null, bucketVersion: null, armId: null, mix: null },
      ...{ assignedArmId: null, factsDigest: null, receipt: requestId, status: 'settled', promptTokens: 1 },
      ...{ completionTokens: 1, ttftMs: 1, createdAt: NOW, settledAt: NOW, promptPrice: null, completionPrice: null },
      ...{ charge: 'measured', cost: null, holds: null, heldUntil: null },
    })
    const ids = ['good', 'bad', 'fine'].map((name) => `${name}-${names++}`) as [string, string, string]
    const owed: Promise<unknown>[] = []
    const keep = (work: Promise<unknown>) => void owed.push(work)
    for (const id of ids) ledger.write({ row: rowOf(id, id === ids[1] ? digest('9') : BASE) }, keep)
    await Promise.all(owed)
    expect(await statusesOf(ids)).toEqual(['settled', 'settled'])
    expect(house.logged().some((line) => line.includes('usage.refused') && line.includes(ids[1]))).toBe(true)
  })
})
