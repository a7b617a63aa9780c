// The export of usage and cost: complete across pages, equal in both formats, and inert in a spreadsheet.
import { env } from 'cloudflare:workers'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter, allow, BASE, createHouse, type House, NOW, seed, toTenant } from './house.ts'

const ROWS = 1_203
const HOSTILE = ['=1+1', '+1', '-1', '@SUM(A1)', '\t=1', '\r=1', 'a","b', 'x\n=1', 'é"🙂']

let house: House
let key: { id: string; key: string }
beforeAll(async () => {
  house = await createHouse()
  await seed(house)
  await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
  key = await house.mint('acme')
  // Many of one millisecond, so that pages end among them.
  const insert =
    "INSERT INTO usage (request_id, tenant_id, key_id, user_id, model, base_digest, grant_id, receipt, status, prompt_tokens, completion_tokens, prompt_price, completion_price, cost, charge, created_at) SELECT 'r' || value, 'acme', ?, json_extract(?, '$[' || (value % 9) || ']'), 'm' || (value % 3), ?, 'g', 'x', 'settled', value, 1, 1, 1, 2, 'measured', ? + 86400000 * (value / 1000) FROM json_each(?)"
  const values = JSON.stringify(Array.from({ length: ROWS }, (_, at) => at))
  await env.DB.prepare(insert).bind(key.id, JSON.stringify(HOSTILE), BASE, NOW, values).run()
})

const get = (query: string) =>
  house.call('GET', `/admin/tenants/acme/usage/export?from=0&to=${Number.MAX_SAFE_INTEGER}&${query}`, house.adminKey)

/** RFC 4180, as its grammar says; nothing of ours. */
function parseCsv(text: string): string[][] {
  const rows: string[][] = []
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r\n)/g)) {
    if (rows.length === 0 || rows.at(-1)?.at(-1) === '\u0000') {
      rows.at(-1)?.pop()
      rows.push([])
    }
    rows.at(-1)?.push(quoted?.replaceAll('""', '"') ?? plain ?? '')
    if (end === '\r\n') rows.at(-1)?.push('\u0000')
  }
  rows.at(-1)?.pop()
  return rows
}

describe('the export of usage', () => {
  it('has every row once, in order, in both formats', async () => {
    const { json } = await get('format=json')
    expect(json.data).toHaveLength(ROWS)
    expect(new Set(json.data.map(({ requestId }) => requestId)).size).toBe(ROWS)
    const times = json.data.map(({ createdAt }) => Number(createdAt))
    expect(times).toEqual([...times].sort((a, b) => a - b))
    const [head, ...rows] = parseCsv((await get('format=csv')).text)
    expect(head).toEqual(Object.keys(json.data[0] ?? {}))
    expect(rows.map((row) => row[0])).toEqual(json.data.map(({ requestId }) => requestId))
  })

  it('has no cell that a spreadsheet would run, and loses nothing of the texts', async () => {
    const [head, ...rows] = parseCsv((await get('format=csv')).text)
    const users = rows.map((row) => row[head?.indexOf('userId') ?? -1] ?? '')
    expect(rows.flat().filter((cell) => /^[=+\-@\t\r\n]/.test(cell))).toEqual([])
    expect(new Set(users.map((user) => user.replace(/^'/, '')))).toEqual(new Set(HOSTILE))
    for (const text of HOSTILE.slice(0, 6)) expect(users).toContain(`'${text}`)
  })

  it.each(['day', 'key', 'user', 'model', 'adapter'])('by %s sums what the rows say', async (group) => {
    const { data } = (await get(`format=json&group=${group}`)).json
    const sum = (field: string) => data.reduce((total, row) => total + Number(row[field]), 0)
    expect([sum('requests'), sum('settled'), sum('completionTokens'), sum('cost')]).toEqual([
      ROWS,
      ROWS,
      ROWS,
      2 * ROWS,
    ])
    expect(sum('promptTokens')).toBe((ROWS * (ROWS - 1)) / 2)
    expect(data).toHaveLength({ day: 2, key: 1, user: HOSTILE.length, model: 3, adapter: 1 }[group] ?? -1)
  })

  it('is of the span and of the tenant', async () => {
    const from = NOW + 86_400_000
    const url = (tenant: string, to: number) =>
      `/admin/tenants/${tenant}/usage/export?format=json&from=${from}&to=${to}`
    const count = async (path: string) => (await house.call('GET', path, house.adminKey)).json.data.length
    expect(await count(url('acme', from + 1))).toBe(ROWS - 1_000)
    expect(
      await count(
        url('acme', from + 1)
          .replace(`from=${from}`, `from=${from + 1}`)
          .replace(`to=${from + 1}`, `to=${from + 2}`),
      ),
    ).toBe(0)
    expect(await count(url('zeta', from + 1))).toBe(0)
  })

  it('reads a page when there is room for it, and no further when the reader leaves', async () => {
    const asked: string[] = []
    const counting = {
      ...env,
      DB: {
        prepare: (sql: string) => {
          if (sql.includes('from "usage"')) asked.push(sql)
          return env.DB.prepare(sql)
        },
        batch: (statements: D1PreparedStatement[]) => env.DB.batch(statements),
      },
    }
    const path = `/admin/tenants/acme/usage/export?from=0&to=${Number.MAX_SAFE_INTEGER}`
    const { response } = await house.open(path, { headers: { authorization: `Bearer ${house.adminKey}` } }, counting)
    const reader = response.body!.getReader()
    await reader.read()
    await reader.cancel()
    expect(asked.length).toBeLessThanOrEqual(3)
  })

  it.each(['from=2&to=1', 'from=x', 'format=xml', 'group=everything', ''])('refuses %j', async (query) => {
    const bad = await house.call('GET', `/admin/tenants/acme/usage/export?${query}`, house.adminKey)
    expect(bad.status).toBe(400)
  })
})
