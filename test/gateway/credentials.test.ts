// What bounds a credential besides its grants: scopes, rotation, last use; and grants by group, tag and act.
import { env } from 'cloudflare:workers'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter, allow, BASE, createHouse, deny, digest, type House, seed, toTenant } from './house.ts'

let house: House
beforeAll(async () => {
  house = await createHouse()
  await seed(house)
  await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
})

describe('the scopes of a key', () => {
  it('bound what is granted, and add nothing', async () => {
    const use = await house.mint('acme', { scopes: ['infer'] })
    const look = await house.mint('acme', { scopes: ['list'] })
    expect((await house.ask(use.key, 'red')).status).toBe(200)
    expect(await house.models(use.key)).toEqual([])
    // What is listed may be used, so a key that may not use it lists nothing.
    expect((await house.ask(look.key, 'red')).status).toBe(404)
    expect(await house.models(look.key)).toEqual([])
    expect((await house.ask(use.key, 'blue')).status).toBe(404)
  })

  it('are never empty, unknown or given to an admin key', async () => {
    for (const scopes of [[], ['root'], 'infer']) {
      expect((await house.call('POST', '/admin/tenants/acme/keys', house.adminKey, { scopes })).status).toBe(400)
    }
    expect((await house.call('POST', '/admin/keys', house.adminKey, { scopes: ['infer'] })).status).toBe(400)
  })
})

describe('the rotation of a key', () => {
  it('keeps id and grants, and the old secret for the overlap and not a millisecond longer', async () => {
    const old = await house.mint('acme', { user: 'ada' })
    const { json: next } = await house.admin('POST', `/keys/${old.id}/rotate`, { overlapMs: 5_000 })
    expect(next.id).toBe(old.id)
    expect(next.key).not.toBe(old.key)
    expect(JSON.stringify(next)).not.toContain(await macOf(old.id))
    for (const { key } of [old, next]) expect((await house.ask(key, 'red')).status).toBe(200)
    house.clock.now += 4_999
    for (const { key } of [old, next]) expect((await house.ask(key, 'red')).status).toBe(200)
    house.clock.now += 1
    expect((await house.ask(old.key, 'red')).status).toBe(401)
    expect((await house.ask(next.key, 'red')).status).toBe(200)
  })

  it('without an overlap ends the old secret at once', async () => {
    const old = await house.mint('acme')
    const { json: next } = await house.admin('POST', `/keys/${old.id}/rotate`, {})
    expect((await house.ask(old.key, 'red')).status).toBe(401)
    expect((await house.ask(next.key, 'red')).status).toBe(200)
  })

  it('twice leaves one old secret, the last', async () => {
    const first = await house.mint('acme')
    const { json: second } = await house.admin('POST', `/keys/${first.id}/rotate`, { overlapMs: 60_000 })
    await house.admin('POST', `/keys/${first.id}/rotate`, { overlapMs: 60_000 })
    expect((await house.ask(first.key, 'red')).status).toBe(401)
    expect((await house.ask(second.key, 'red')).status).toBe(200)
  })

  it('works for admin keys, is audited, and is refused for keys that are not there', async () => {
    const { json: admin } = await house.admin('POST', '/keys', {})
    await house.admin('POST', `/keys/${admin.id}/rotate`, {})
    expect((await house.call('GET', '/admin/tenants', admin.key)).status).toBe(401)
    const audit = (await house.admin('GET', '/audit?limit=1')).json.data[0]
    expect(audit).toMatchObject({ action: 'key.rotate', resource: admin.id })
    expect((await house.call('POST', `/admin/keys/${'z'.repeat(16)}/rotate`, house.adminKey, {})).status).toBe(404)
  })

  const macOf = async (id: string) =>
    String((await env.DB.prepare('SELECT mac FROM keys WHERE id = ?').bind(id).first<{ mac: string }>())?.mac)
})

describe('the last use of a key', () => {
  it('is shown to the minute, and null before the first', async () => {
    const key = await house.mint('acme')
    const seen = async () =>
      (await house.admin('GET', '/tenants/acme/keys')).json.data.find(({ id }) => id === key.id)?.lastUsedAt
    expect(await seen()).toBeNull()
    await house.models(key.key)
    const first = house.clock.now
    expect(await seen()).toBe(first)
    house.clock.now += 1_000
    await house.models(key.key)
    expect(await seen()).toBe(first)
    house.clock.now += 60_000
    await house.models(key.key)
    expect(await seen()).toBe(house.clock.now)
  })
})

describe('grants by group, tag and act', () => {
  it('reach the users of a group', async () => {
    await house.admin('PUT', '/tenants/acme/groups/legal', {})
    await house.admin('PUT', '/tenants/acme/users/lea', { groups: ['legal'] })
    await house.admin('PUT', '/tenants/acme/grants/legal', allow({ kind: 'group', id: 'legal' }, adapter('blue')))
    const lea = await house.mint('acme', { user: 'lea' })
    const ada = await house.mint('acme', { user: 'ada' })
    expect(await house.models(lea.key)).toEqual(['blue', 'red'])
    expect(await house.models(ada.key)).toEqual(['red'])
    await house.admin('PUT', '/tenants/acme/groups/legal', { disabled: true })
    expect(await house.models(lea.key)).toEqual(['red'])
  })

  it('follow the tags of an adapter from one moment to the next', async () => {
    const blue = { name: 'blue', version: 1, digest: digest('2'), base: BASE }
    await house.admin('PUT', '/tenants/acme/grants/tagged', allow(toTenant, { kind: 'tag', tag: 'public' }))
    const key = await house.mint('acme')
    expect(await house.models(key.key)).toEqual(['red'])
    await house.admin('PUT', '/tenants/acme/adapters/blue', { ...blue, tags: ['public', 'b', 'public'] })
    expect(await house.models(key.key)).toEqual(['blue', 'red'])
    // Left out, the tags stay: a deny might name one.
    await house.admin('PUT', '/tenants/acme/adapters/blue', blue)
    expect(await house.models(key.key)).toEqual(['blue', 'red'])
    await house.admin('PUT', '/tenants/acme/grants/secret', deny(toTenant, { kind: 'tag', tag: 'b' }))
    expect(await house.models(key.key)).toEqual(['red'])
    const listed = (await house.admin('GET', '/tenants/acme/adapters')).json.data.find(({ id }) => id === 'blue')
    expect(listed).toMatchObject({ tags: ['b', 'public'] })
  })

  it('are about use and listing when they allow without saying what, and about everything when they deny', async () => {
    const { json: yes } = await house.admin('PUT', '/tenants/acme/grants/a', allow(toTenant, adapter('red')))
    const { json: no } = await house.admin(
      'PUT',
      '/tenants/acme/grants/d',
      deny({ kind: 'user', id: 'ada' }, adapter('blue')),
    )
    expect([yes, no]).toMatchObject([
      { actions: ['infer', 'list'] },
      { actions: ['infer', 'list', 'train', 'merge', 'promote', 'admin'] },
    ])
  })

  it('can allow the use of a model that is not listed', async () => {
    const key = await house.mint('zeta')
    await house.admin('PUT', '/tenants/zeta/grants/quiet', allow(toTenant, adapter('red'), { actions: ['infer'] }))
    expect(await house.models(key.key)).toEqual([])
    expect((await house.ask(key.key, 'red')).status).toBe(200)
    const explain = await house.admin('POST', '/explain', { key: key.id, model: 'red', action: 'list' })
    expect(explain.json.targets[0].decision).toEqual({ allowed: false, reason: 'not-granted' })
  })
})
