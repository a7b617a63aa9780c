// A database that is busy or gone: 503, nothing authorised, nothing dispatched; and no answer is lost for its sake.
import { env } from 'cloudflare:workers'
import { beforeEach, describe, expect, it } from 'vitest'
import { adapter, allow, createHouse, type House, seed, toTenant } from './house.ts'

let house: House
let key: { id: string; key: string }
beforeEach(async () => {
  house = await createHouse()
  await seed(house)
  await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
  key = await house.mint('acme')
})

/** Fails at statements of this kind, as often as is said, once so many of them have passed. */
function failing(what: RegExp, message: string, times = Number.POSITIVE_INFINITY, passing = 0) {
  let left = times
  let pass = passing
  return {
    ...env,
    DB: {
      prepare: (sql: string) => {
        if (what.test(sql) && pass-- <= 0 && left-- > 0) throw new Error(message)
        return env.DB.prepare(sql)
      },
      batch: (statements: D1PreparedStatement[]) => env.DB.batch(statements),
    },
  }
}
const ask = (bindings: object) =>
  house.call('POST', '/v1/completions', key.key, { model: 'red', prompt: 'hi' }, bindings)

const AWAY = ['D1_ERROR: database is locked: SQLITE_BUSY', 'SQLITE_IOERR: disk I/O error', 'Network connection lost.']

describe('a database that is away', () => {
  it.each([
    ['the policy', /from "keys"/],
    ['the admission', /^insert into "usage"/],
  ] as const)('for %s: the answer is 503 and no backend is asked', async (_what, statement) => {
    for (const message of AWAY) {
      const reply = await ask(failing(statement, message))
      expect([reply.status, reply.json.error.code, reply.headers.get('retry-after')]).toEqual([
        503,
        'database_unavailable',
        '1',
      ])
      expect(reply.text).not.toMatch(/sqlite|insert|locked/i)
    }
    expect(house.backend.seen).toHaveLength(0)
  })

  it('for a change by an admin: 503, and neither the change nor its audit row is there', async () => {
    const count = async () => (await env.DB.prepare('SELECT count(*) AS n FROM audit').first<{ n: number }>())?.n
    const before = await count()
    for (const message of AWAY) {
      const reply = await house.call(
        'PUT',
        '/admin/tenants/acme/roles/late',
        house.adminKey,
        {},
        failing(/^insert into "roles"/, message),
      )
      expect([reply.status, reply.json.error.code]).toEqual([503, 'database_unavailable'])
    }
    expect(await count()).toBe(before)
  })

  it('for a moment at the settling: it is settled all the same, once', async () => {
    const reply = await ask(failing(/^insert into "usage"/, 'SQLITE_BUSY', 2, 1))
    expect(reply.status).toBe(200)
    const row = await env.DB.prepare('SELECT * FROM usage WHERE request_id = ?')
      .bind(reply.headers.get('x-request-id'))
      .first()
    expect(row).toMatchObject({ status: 'settled', completion_tokens: 3 })
  })

  it('for good at the settling: the caller has his answer, the row is open, and the log says so', async () => {
    const reply = await ask(failing(/^insert into "usage"/, 'SQLITE_BUSY', Number.POSITIVE_INFINITY, 1))
    expect(reply.status).toBe(200)
    const requestId = reply.headers.get('x-request-id')
    const row = await env.DB.prepare('SELECT * FROM usage WHERE request_id = ?').bind(requestId).first()
    expect(row).toMatchObject({ status: 'open' })
    expect(house.logged().some((line) => line.includes('usage.unsettled') && line.includes(String(requestId)))).toBe(
      true,
    )
  })
})
