// Rows of usage that D1 does not take: by the real queue of workerd to the Worker's own consumer, each counted once.
import { createExecutionContext, createMessageBatch, getQueueResult } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { beforeAll, describe, expect, it } from 'vitest'
import type { Bindings } from '../../gateway/config.ts'
import { Ledger } from '../../gateway/usage/ledger.ts'
import { MAX_MESSAGE_BYTES, queueRows, type Rows, splitRows } from '../../gateway/usage/queue-rows.ts'
import type { UsageRow } from '../../gateway/usage/usage-rows.ts'
import { writeQueued } from '../../gateway/usage/write-queued.ts'
import worker from '../../gateway/worker.ts'
import { adapter, allow, BASE, createHouse, digest, type House, NOW, seed, toTenant } from './house.ts'

const BUSY = 'D1_ERROR: database is locked: SQLITE_BUSY'
let house: House
let key: { id: string; key: string }
beforeAll(async () => {
  house = await createHouse({ keeping: { lingerMs: 1, spareMs: 0, beforeDispatch: false } })
  await seed(house)
  await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
  key = await house.mint('acme')
})

let names = 0
const rowOf = (more: Partial<UsageRow> = {}): UsageRow => ({
  ...{ requestId: `row-${names++}`, tenantId: 'acme', keyId: key.id, userId: null, model: 'red', baseDigest: BASE },
  ...{ adapterId: null, adapterDigest: null, grantId: 'red', experimentId: null, bucketVersion: null, armId: null },
  ...{ mix: null, assignedArmId: null, factsDigest: null, receipt: 'r', status: 'settled', promptTokens: 1 },
  ...{ completionTokens: 2, ttftMs: 1, createdAt: NOW, settledAt: NOW, promptPrice: null, completionPrice: null },
  ...{ charge: 'measured', cost: null, holds: null, heldUntil: null },
  ...more,
})
const only = (rows: readonly UsageRow[]): Rows => ({ facts: [], rows, exposures: [] })
const stored = async (ids: readonly (string | null)[]) => {
  const sql =
    'SELECT request_id, status, completion_tokens FROM usage WHERE request_id IN (SELECT value FROM json_each(?))'
  const { results } = await env.DB.prepare(sql).bind(JSON.stringify(ids)).all()
  return results.map((row) => [row.request_id, row.status, row.completion_tokens])
}

/** The same database; every batch fails while it is told to, or never answers. */
function watched(more: object = {}) {
  const state = { away: false, hangs: false }
  const DB = {
    prepare: (sql: string) => env.DB.prepare(sql),
    batch: (statements: D1PreparedStatement[]) => {
      if (state.away) throw new Error(BUSY)
      return state.hangs ? new Promise<never>(() => {}) : env.DB.batch(statements)
    },
  }
  return { state, bindings: { ...env, DB, ...more } }
}

/** What the consumer does with these messages. */
async function deliver(bodies: readonly unknown[]) {
  const messages = bodies.map((body, at) => ({ id: `m${at}`, timestamp: new Date(NOW), attempts: 1, body }))
  const batch = createMessageBatch('sidepath-usage', messages)
  await worker.queue(batch, { DB: env.DB } as Partial<Bindings>)
  const { explicitAcks, retryMessages } = await getQueueResult(batch, createExecutionContext())
  return { acked: explicitAcks, retried: retryMessages }
}

describe('a database that cannot be written', () => {
  it('gets what was served by the queue, and requests are served meanwhile', async () => {
    const { state, bindings } = watched()
    const ask = () => house.call('POST', '/v1/completions', key.key, { model: 'red', prompt: 'hi' }, bindings)
    await ask()
    state.away = true
    const replies = [await ask(), await ask(), await ask()]
    expect(replies.map(({ status }) => status)).toEqual([200, 200, 200])
    const ids = replies.map(({ headers }) => headers.get('x-request-id'))
    // The consumer has the database itself, which is there.
    await expect
      .poll(async () => (await stored(ids)).map(([, status]) => status), { timeout: 10_000 })
      .toEqual(['settled', 'settled', 'settled'])
    state.away = false
    expect((await ask()).status).toBe(200)
    expect((await stored(ids)).length).toBe(3)
  }, 30_000)

  it('and has no queue: what was served waits in memory, and the next is refused', async () => {
    const { state, bindings } = watched({ USAGE_QUEUE: undefined })
    const ask = () => house.call('POST', '/v1/completions', key.key, { model: 'red', prompt: 'hi' }, bindings)
    await ask()
    state.away = true
    const replies = [await ask(), await ask()]
    expect(replies.map(({ status }) => status)).toEqual([200, 503])
    state.away = false
    expect((await ask()).status).toBe(200)
    expect(await stored([replies[0]?.headers.get('x-request-id') ?? null])).toHaveLength(1)
  })

  it('keeps the counts of limits in memory: nothing is admitted before they are told', async () => {
    const limited = await house.mint('acme')
    await house.admin('PUT', '/tenants/acme/limits/few', {
      ...{ scope: { kind: 'key', id: limited.id }, metric: 'requests', window: 'day', amount: 50 },
    })
    const { state, bindings } = watched()
    const ask = () => house.call('POST', '/v1/completions', limited.key, { model: 'red', prompt: 'hi' }, bindings)
    await ask()
    state.away = true
    const away = [(await ask()).status, (await ask()).status]
    expect(away.every((status) => status === 503)).toBe(true)
    state.away = false
    expect((await ask()).status).toBe(200)
    const [window] = (await house.admin('GET', '/tenants/acme/limits/few/windows')).json.data
    expect(window).toMatchObject({ used: 2, held: 0 })
  })

  it('and a queue that fails as well: the rows wait in memory, and are written once the database is back', async () => {
    const USAGE_QUEUE = { sendBatch: () => Promise.reject(new Error('queue is away')) }
    const { state, bindings } = watched({ USAGE_QUEUE })
    const ledger = new Ledger(bindings.DB, house.world.keeping, () => NOW, USAGE_QUEUE)
    const row = rowOf()
    const owed: Promise<unknown>[] = []
    state.away = true
    ledger.write({ row }, (work) => void owed.push(work))
    await Promise.all(owed)
    await expect(ledger.ready()).rejects.toMatchObject({ status: 503 })
    state.away = false
    await ledger.ready()
    expect(await stored([row.requestId])).toEqual([[row.requestId, 'settled', 2]])
  })

  it('that does not answer: its rows are with the queue before the host would stop waiting', async () => {
    const { state, bindings } = watched()
    const ledger = new Ledger(bindings.DB, house.world.keeping, () => Date.now(), env.USAGE_QUEUE)
    const row = rowOf()
    state.hangs = true
    ledger.write({ row }, () => {})
    await expect.poll(() => stored([row.requestId]), { timeout: 20_000 }).toEqual([[row.requestId, 'settled', 2]])
  }, 30_000)
})

describe('the consumer', () => {
  it('counts a row once, however often and in whatever order it is delivered', async () => {
    const row = rowOf()
    const open = { ...row, status: 'open', completionTokens: null, settledAt: null, charge: null } as const
    const other = { ...row, completionTokens: 9 }
    const bodies = [open, row, row, other, open].map((one) => only([one]))
    expect((await deliver(bodies)).acked).toEqual(['m0', 'm1', 'm2', 'm3', 'm4'])
    expect((await deliver(bodies)).acked).toHaveLength(5)
    expect(await stored([row.requestId])).toEqual([[row.requestId, 'settled', 2]])
  })

  it('asks for a message again, later each time and within an hour, where the database is away', async () => {
    const DB = {
      prepare: (sql: string) => env.DB.prepare(sql),
      batch: () => Promise.reject(new Error(BUSY)),
    }
    const delays: number[] = []
    for (const attempts of [1, 2, 3, 9, 10, 20]) {
      const ack = () => expect.unreachable('it is not written')
      const retry = ({ delaySeconds }: { delaySeconds: number }) => void delays.push(delaySeconds)
      await writeQueued(DB, [{ id: 'm', attempts, body: only([rowOf()]), ack, retry }])
    }
    expect(delays).toEqual([10, 20, 40, 2_560, 3_600, 3_600])
  })

  it('writes what it can of a message with a row that is refused for good, and keeps the message', async () => {
    const rows = [rowOf(), rowOf({ baseDigest: digest('9') }), rowOf()]
    const { acked, retried } = await deliver([only(rows), only([rowOf()])])
    expect([acked, retried.map(({ msgId }) => msgId)]).toEqual([['m1'], ['m0']])
    expect(await stored(rows.map(({ requestId }) => requestId))).toHaveLength(2)
  })

  it.each([null, 'x', {}, { facts: [], rows: [{}], exposures: [] }, only([{ ...rowOf0(), promptTokens: 1.5 }])])(
    'does not write %j, and does not lose it',
    async (body) => {
      const { acked, retried } = await deliver([body])
      expect([acked, retried.length]).toEqual([[], 1])
    },
  )
})

function rowOf0(): UsageRow {
  return { requestId: 'half', tenantId: 'acme', model: 'red', baseDigest: BASE } as UsageRow
}

describe('messages', () => {
  it('are each below what a queue takes, and lose nothing', async () => {
    const rows = Array.from({ length: 1_000 }, (_, at) => rowOf({ model: '🙂"\n'.repeat(at % 60) }))
    const facts = [{ digest: digest('1'), text: '"'.repeat(40_000), createdAt: NOW }]
    const sent: { body: Rows }[][] = []
    const queue = { sendBatch: async (messages: readonly { body: unknown }[]) => void sent.push(messages as never) }
    expect(await queueRows(queue, { facts, rows, exposures: [] })).toEqual([])
    const bytes = (value: unknown) => new TextEncoder().encode(JSON.stringify(value)).length
    const bodies = sent.flat().map(({ body }) => body)
    expect(bodies.length).toBeGreaterThan(4)
    expect(Math.max(...bodies.map(bytes))).toBeLessThanOrEqual(MAX_MESSAGE_BYTES)
    expect(Math.max(...sent.map((batch) => batch.reduce((sum, { body }) => sum + bytes(body), 0)))).toBeLessThan(
      250_000,
    )
    expect(bodies.flatMap((body) => body.rows)).toEqual(rows)
    expect(bodies.flatMap((body) => body.facts)).toEqual(facts)
  })

  it('are taken by the real queue at their largest', async () => {
    const rows = Array.from({ length: 260 }, () => rowOf({ model: 'm'.repeat(500) }))
    expect(splitRows(only(rows)).messages.length).toBeGreaterThan(1)
    await queueRows(env.USAGE_QUEUE as never, only(rows))
    const ids = rows.map(({ requestId }) => requestId)
    await expect.poll(async () => (await stored(ids)).length, { timeout: 10_000 }).toBe(260)
  }, 30_000)

  it('have no facts that are larger than a message: those stay with the ledger', async () => {
    const large = { digest: digest('2'), text: 'x'.repeat(MAX_MESSAGE_BYTES), createdAt: NOW }
    expect(splitRows({ facts: [large], rows: [], exposures: [] })).toEqual({ messages: [], left: [large] })
  })
})
