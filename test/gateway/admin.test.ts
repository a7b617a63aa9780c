// The admin plane, its audit trail, and the constraints below it.
import { env } from 'cloudflare:workers'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter, allow, BASE, base, createHouse, digest, type House, seed, toTenant } from './house.ts'

let house: House
beforeAll(async () => {
  house = await createHouse()
  await seed(house)
})
const call = (method: string, path: string, body?: unknown) => house.call(method, `/admin${path}`, house.adminKey, body)
const codeOf = async (method: string, path: string, body?: unknown) => {
  const { status, json } = await call(method, path, body)
  return [status, json.error?.code]
}

describe('the admin plane', () => {
  it('takes the same PUT twice: created, then the same', async () => {
    for (const [path, body] of [
      ['/tenants/new', { maxTokens: 10 }],
      ['/tenants/new/roles/r', {}],
      ['/tenants/new/users/u', { roles: ['r'] }],
      ['/tenants/new/adapters/a', { name: 'a', version: 1, digest: digest('8'), base: BASE }],
      ['/tenants/new/models/m', { adapter: 'a' }],
      ['/tenants/new/grants/g', allow({ kind: 'role', id: 'r' }, adapter('a'))],
      [
        '/tenants/new/experiments/e',
        {
          arms: [
            { id: 'x', weight: 1, adapter: 'a' },
            { id: 'y', weight: 9999, base: BASE },
          ],
        },
      ],
      ['/backends/b9', { url: 'https://nine.test', base: BASE, enabled: false }],
      [`/bases/${'c'.repeat(64)}`, {}],
    ] as const) {
      const first = await call('PUT', path, body)
      house.clock.now += 1
      const second = await call('PUT', path, body)
      expect([path, first.status, second.status]).toEqual([path, 201, 200])
      expect(second.json).toEqual(first.json)
      const list = (await call('GET', path.slice(0, path.lastIndexOf('/')))).json.data
      expect(list.length).toBeGreaterThan(0)
    }
  })

  it('shows a key once, and its MAC never', async () => {
    const minted = (await call('POST', '/tenants/acme/keys', { user: 'ada' })).json
    expect(minted.key).toMatch(/^sp_test_/)
    for (const path of ['/tenants/acme/keys', '/keys', '/audit']) {
      const { text } = await call('GET', path)
      expect(text).not.toContain(minted.key)
      expect(text).not.toContain('mac')
    }
  })

  it('does not let an admin key disable itself', async () => {
    const own = house.adminKey.split('_')[2]
    expect(await codeOf('PATCH', `/keys/${own}`, { disabled: true })).toEqual([400, 'own_key'])
    const other = (await call('POST', '/keys', {})).json
    expect((await call('PATCH', `/keys/${other.id}`, { disabled: true })).json.disabled).toBe(true)
    expect((await house.call('GET', '/admin/tenants', other.key)).status).toBe(401)
  })

  it('refuses references to what is not there, or is another tenant’s', async () => {
    await call('PUT', '/tenants/zeta/adapters/only-zeta', { name: 'z', version: 1, digest: digest('9'), base: BASE })
    const zetaKey = await house.mint('zeta')
    await call('PUT', '/tenants/zeta/users/zoe', {})
    for (const [path, body] of [
      ['/tenants/nobody/users/u', {}],
      ['/tenants/acme/models/m', { adapter: 'only-zeta' }],
      ['/tenants/acme/models/m', { base: 'd'.repeat(64) }],
      ['/tenants/acme/grants/x', allow(toTenant, adapter('only-zeta'))],
      ['/tenants/acme/grants/x', allow({ kind: 'key', id: zetaKey.id }, base)],
      ['/tenants/acme/grants/x', allow({ kind: 'user', id: 'zoe' }, base)],
      ['/tenants/acme/users/u2', { roles: ['nothing'] }],
      ['/tenants/acme/adapters/n', { name: 'n', version: 1, digest: digest('a'), base: 'd'.repeat(64) }],
      ['/backends/b8', { url: 'http://eight.test', base: 'd'.repeat(64) }],
    ] as const) {
      expect([path, ...(await codeOf('PUT', path, body))]).toEqual([path, 400, 'unknown_reference'])
    }
    expect(await codeOf('POST', '/tenants/acme/keys', { user: 'zoe' })).toEqual([400, 'unknown_reference'])
  })

  it('refuses changes of what an adapter names, and a name and version that exist', async () => {
    const body = { name: 'red', version: 1, digest: digest('e'), base: BASE }
    expect(await codeOf('PUT', '/tenants/acme/adapters/red', body)).toEqual([400, 'immutable'])
    expect(await codeOf('PUT', '/tenants/acme/adapters/red-again', body)).toEqual([400, 'already_exists'])
  })

  it.each([
    'ftp://x.test',
    'http://x.test/',
    'http://x.test/path',
    'http://user:pass@x.test',
    'http://x.test?a',
    'http://x.test#a',
    'HTTP://x.test',
    '//x.test',
    'file:///etc/passwd',
    'javascript:alert(1)',
    '',
  ])('refuses %j as the address of a backend', async (url) => {
    expect(await codeOf('PUT', '/backends/bad', { url, base: BASE })).toEqual([400, 'invalid_value'])
  })

  it('refuses names, digests, bodies and windows that are out of form', async () => {
    for (const [method, path, body] of [
      ['PUT', '/tenants/UPPER', { maxTokens: 1 }],
      ['PUT', `/tenants/${'x'.repeat(65)}`, { maxTokens: 1 }],
      ['PUT', '/tenants/a%27b', { maxTokens: 1 }],
      ['PUT', '/tenants/x', { maxTokens: 0 }],
      ['PUT', '/tenants/x', { maxTokens: 1, admin: true }],
      ['PUT', '/bases/xyz', {}],
      ['PUT', '/tenants/acme/models/m', { adapter: 'red', base: BASE }],
      ['PUT', '/tenants/acme/models/m', {}],
      ['PUT', '/tenants/acme/models/a%2Fb', { adapter: 'red' }],
      ['PUT', '/tenants/acme/grants/x', allow({ kind: 'everyone' }, base)],
      ['PUT', '/tenants/acme/grants/x', allow({ kind: 'tenant', id: 'zeta' }, base)],
      ['PUT', '/tenants/acme/grants/x', allow({ kind: 'user' }, base)],
      ['PUT', '/tenants/acme/grants/x', allow(toTenant, { kind: 'adapter', id: '*' })],
      ['PUT', '/tenants/acme/grants/x', allow(toTenant, base, { startsAt: 5, endsAt: 5 })],
      ['GET', '/audit?limit=1001', undefined],
      ['GET', '/tenants/acme/usage?before=x', undefined],
    ] as const) {
      expect([path, (await call(method, path, body)).status]).toEqual([path, 400])
    }
  })

  it('answers 404 for what is not there to change', async () => {
    expect((await call('DELETE', '/tenants/acme/grants/nothing')).status).toBe(404)
    expect((await call('PATCH', '/keys/AAAAAAAAAAAAAAAA', { disabled: true })).status).toBe(404)
    expect((await call('PATCH', '/tenants/acme/experiments/nothing', { status: 'running' })).status).toBe(404)
    expect((await call('GET', '/receipts/nothing')).status).toBe(404)
    expect((await call('POST', '/explain', { key: 'AAAAAAAAAAAAAAAA', model: 'red' })).status).toBe(404)
  })
})

describe('the audit trail', () => {
  it('has a row for each change, with the actor and digests of before and after', async () => {
    await call('PUT', '/tenants/acme/grants/audited', allow(toTenant, adapter('red')))
    await call('PUT', '/tenants/acme/grants/audited', allow(toTenant, adapter('blue')))
    await call('DELETE', '/tenants/acme/grants/audited')
    const rows = (await call('GET', '/audit?limit=3')).json.data
    expect(rows.map((row) => row.action)).toEqual(['grant.delete', 'grant.put', 'grant.put'])
    const [deleted, changed, created] = [rows[0]!, rows[1]!, rows[2]!]
    expect(created).toMatchObject({ actor: house.adminKey.split('_')[2], resource: 'acme/audited', beforeDigest: null })
    expect(changed.beforeDigest).toBe(created.afterDigest)
    expect(deleted.beforeDigest).toBe(changed.afterDigest)
    expect(deleted.afterDigest).toBeNull()
  })

  it('has no row for a change that failed', async () => {
    const newest = async () => (await call('GET', '/audit?limit=1')).json.data[0]?.id
    const before = await newest()
    await call('PUT', '/tenants/acme/models/m', { adapter: 'nothing' })
    expect(await newest()).toBe(before)
  })

  it('can be neither changed nor deleted', async () => {
    await expect(env.DB.prepare("UPDATE audit SET actor = 'x'").run()).rejects.toThrow('append-only')
    await expect(env.DB.prepare('DELETE FROM audit').run()).rejects.toThrow('append-only')
  })
})

describe('the database', () => {
  it('enforces foreign keys, also across tenants', async () => {
    const insert = (sql: string) => env.DB.prepare(sql).run()
    await expect(insert("INSERT INTO users VALUES ('nobody', 'u', 0, 0)")).rejects.toThrow('FOREIGN KEY')
    await expect(insert("INSERT INTO user_roles VALUES ('acme', 'zoe', 'staff')")).rejects.toThrow('FOREIGN KEY')
    await expect(
      insert(
        "INSERT INTO models (tenant_id, name, adapter_id, disabled, created_at) VALUES ('acme', 'm', 'only-zeta', 0, 0)",
      ),
    ).rejects.toThrow('FOREIGN KEY')
    await expect(insert('DELETE FROM tenants')).rejects.toThrow('FOREIGN KEY')
  })

  it('refuses a grant whose principal is left open, and a model that leads nowhere or to two places', async () => {
    const grant = (kind: string, user: string | null, actions = '["infer"]') =>
      env.DB.prepare(
        "INSERT INTO grants (tenant_id, id, effect, actions, principal_kind, user_id, base_digest, created_at) VALUES ('acme', 'z', 'allow', ?, ?, ?, ?, 0)",
      )
        .bind(actions, kind, user, BASE)
        .run()
    await expect(grant('user', null)).rejects.toThrow('CHECK')
    await expect(grant('tenant', 'ada')).rejects.toThrow('CHECK')
    await expect(grant('key', 'ada')).rejects.toThrow('CHECK')
    await expect(grant('user', 'ada', '[]')).rejects.toThrow('CHECK')
    const model = (adapterId: string | null, baseDigest: string | null) =>
      env.DB.prepare(
        "INSERT INTO models (tenant_id, name, adapter_id, base_digest, disabled, created_at) VALUES ('acme', 'm', ?, ?, 0, 0)",
      )
        .bind(adapterId, baseDigest)
        .run()
    await expect(model(null, null)).rejects.toThrow('CHECK')
    await expect(model('red', BASE)).rejects.toThrow('CHECK')
  })

  // A row of usage is written for every request, and what it points to is never deleted: an index would only cost.
  it('has an index for every foreign key, but those of usage', async () => {
    const list = async (sql: string) => (await env.DB.prepare(sql).all<Record<string, string>>()).results
    const tables = await list("SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE '%FOREIGN KEY%'")
    expect(tables.length).toBeGreaterThan(8)
    for (const { name } of tables) {
      if (name === 'usage') continue
      const foreign = Map.groupBy(await list(`PRAGMA foreign_key_list("${name}")`), (row) => row.id)
      const leading: string[][] = []
      for (const { name: index } of await list(`PRAGMA index_list("${name}")`)) {
        leading.push((await list(`PRAGMA index_info("${index}")`)).map((row) => row.name ?? ''))
      }
      for (const columns of foreign.values()) {
        const wanted = columns.map((row) => row.from ?? '').sort()
        const covered = leading.some((index) => index.slice(0, wanted.length).sort().join() === wanted.join())
        expect([name, wanted, covered]).toEqual([name, wanted, true])
      }
    }
  })
})
