// Tenants, keys and grants in D1: what each key may use, and what the others look like to it.
import { env } from 'cloudflare:workers'
import { drizzle } from 'drizzle-orm/d1'
import { beforeAll, describe, expect, it } from 'vitest'
import { loadPolicy } from '../../gateway/policy/load-policy.ts'
import { decide } from '../../gateway/policy/policy.ts'
import {
  adapter,
  allow,
  BASE,
  base,
  createHouse,
  deny,
  digest,
  type House,
  NOW,
  type Reply,
  seed,
  toTenant,
} from './house.ts'

const withoutId = (reply: Reply, name: string) => ({
  status: reply.status,
  body: reply.text.replaceAll(name, 'NAME'),
  headers: [...reply.headers].filter(([header]) => header !== 'x-request-id' && header !== 'content-length'),
})

describe('what a key may use', () => {
  let house: House
  let ada: { id: string; key: string }
  let zed: { id: string; key: string }
  beforeAll(async () => {
    house = await createHouse()
    await seed(house)
    ada = await house.mint('acme', { user: 'ada' })
    zed = await house.mint('zeta')
    const grant = (tenant: string, id: string, body: object) =>
      house.admin('PUT', `/tenants/${tenant}/grants/${id}`, body)
    await grant('acme', 'red', allow({ kind: 'user', id: 'ada' }, adapter('red')))
    await grant('acme', 'blue', allow({ kind: 'role', id: 'staff' }, adapter('blue')))
    await grant('acme', 'base', allow(toTenant, base))
    await grant('zeta', 'red', allow(toTenant, adapter('red')))
  })

  it('is the union over key, user, role and tenant, and runs with the digests of its own tenant', async () => {
    expect(await house.models(ada.key)).toEqual(['blue', 'plain', 'red'])
    expect(await house.models(zed.key)).toEqual(['red', 'zeta-only'])
    expect((await house.ask(ada.key, 'red')).json.choices[0].text).toBe(digest('1'))
    expect((await house.ask(ada.key, 'plain')).json.choices[0].text).toBe('base')
    expect((await house.ask(zed.key, 'red')).json.choices[0].text).toBe(digest('3'))
  })

  it('is the same for inference, for the list and for each model alone', async () => {
    for (const key of [ada.key, zed.key]) {
      const listed = await house.models(key)
      for (const name of ['red', 'blue', 'plain', 'zeta-only', 'nothing']) {
        const expected = listed.includes(name) ? 200 : 404
        expect((await house.ask(key, name)).status, name).toBe(expected)
        expect((await house.call('GET', `/v1/models/${name}`, key)).status, name).toBe(expected)
      }
    }
  })

  it('answers forbidden, disabled, expired, other tenants’ and unknown models byte for byte alike', async () => {
    await house.admin('PUT', '/tenants/acme/models/off', { adapter: 'red', disabled: true })
    await house.admin('PUT', '/tenants/acme/adapters/old', { name: 'old', version: 1, digest: digest('5'), base: BASE })
    await house.admin('PUT', '/tenants/acme/models/old', { adapter: 'old' })
    await house.admin('PUT', '/tenants/acme/grants/old', allow(toTenant, adapter('old'), { endsAt: NOW }))
    await house.admin('PUT', '/tenants/acme/adapters/dead', {
      name: 'dead',
      version: 1,
      digest: digest('6'),
      base: BASE,
      disabled: true,
    })
    await house.admin('PUT', '/tenants/acme/models/dead', { adapter: 'dead' })
    await house.admin('PUT', '/tenants/acme/grants/dead', allow(toTenant, adapter('dead')))
    await house.admin('PUT', '/tenants/acme/adapters/ungranted', {
      name: 'un',
      version: 1,
      digest: digest('7'),
      base: BASE,
    })
    await house.admin('PUT', '/tenants/acme/models/ungranted', { adapter: 'ungranted' })
    const names = ['off', 'old', 'dead', 'ungranted', 'zeta-only', 'nothing', '__proto__', 'constructor']
    for (const request of [
      (name: string) => house.ask(ada.key, name),
      (name: string) => house.ask(ada.key, name, { stream: true }),
      (name: string) => house.call('GET', `/v1/models/${name}`, ada.key),
    ]) {
      const answers = []
      for (const name of names) answers.push(JSON.stringify(withoutId(await request(name), name)))
      expect(new Set(answers).size).toBe(1)
    }
    expect((await house.ask(ada.key, 'ungranted')).text).toBe(
      `{"error":{"message":"The model does not exist or you do not have access to it.","type":"invalid_request_error","param":"model","code":"model_not_found"}}`,
    )
    expect(house.backend.seen.some((seen) => seen.claims.model === 'ungranted')).toBe(false)
  })

  it('is nothing for a key without grants: none is not all', async () => {
    await house.admin('PUT', '/tenants/lonely', { maxTokens: 1 })
    await house.admin('PUT', '/tenants/lonely/models/plain', { base: BASE })
    const { key } = await house.mint('lonely')
    expect(await house.models(key)).toEqual([])
    expect((await house.ask(key, 'plain')).status).toBe(404)
  })

  it('does not reach the user’s and the role’s grants with a key that has no user', async () => {
    const { key } = await house.mint('acme')
    expect(await house.models(key)).toEqual(['plain'])
  })

  it('loses to a deny, wherever it comes from, until the deny is gone', async () => {
    await house.admin('PUT', '/tenants/acme/grants/aa-no', deny({ kind: 'key', id: ada.id }, adapter('red')))
    expect(await house.models(ada.key)).toEqual(['blue', 'plain'])
    await house.admin('PUT', '/tenants/acme/grants/aa-no', deny(toTenant, base))
    expect(await house.models(ada.key)).toEqual([])
    await house.admin('DELETE', '/tenants/acme/grants/aa-no')
    expect(await house.models(ada.key)).toEqual(['blue', 'plain', 'red'])
  })

  it('follows the clock through a window', async () => {
    await house.admin(
      'PUT',
      '/tenants/zeta/grants/blue',
      allow(toTenant, adapter('blue'), { startsAt: NOW + 5, endsAt: NOW + 9 }),
    )
    const seen = []
    for (const now of [NOW + 4, NOW + 5, NOW + 8, NOW + 9]) {
      house.clock.now = now
      seen.push((await house.models(zed.key)).includes('blue'))
    }
    house.clock.now = NOW
    expect(seen).toEqual([false, true, true, false])
  })

  it('ends when the role, the base or the membership ends', async () => {
    await house.admin('PUT', '/tenants/acme/roles/staff', { disabled: true })
    expect(await house.models(ada.key)).toEqual(['plain', 'red'])
    await house.admin('PUT', '/tenants/acme/roles/staff', {})
    await house.admin('PUT', '/tenants/acme/users/ada', { roles: [] })
    expect(await house.models(ada.key)).toEqual(['plain', 'red'])
    await house.admin('PUT', '/tenants/acme/users/ada', { roles: ['staff'] })
    await house.admin('PUT', `/bases/${BASE}`, { disabled: true })
    expect(await house.models(ada.key)).toEqual([])
    await house.admin('PUT', `/bases/${BASE}`, {})
    expect(await house.models(ada.key)).toEqual(['blue', 'plain', 'red'])
  })

  it('lists in OpenAI’s shape and names the base only where it may be used', async () => {
    const list = (await house.call('GET', '/v1/models', ada.key)).json
    expect(list.object).toBe('list')
    expect(list.data).toContainEqual({
      id: 'red',
      object: 'model',
      created: Math.floor(NOW / 1000),
      owned_by: 'acme',
      parent: 'plain',
    })
    expect(list.data).toContainEqual(expect.objectContaining({ id: 'plain', parent: null }))
    const alone = (await house.call('GET', '/v1/models/red', zed.key)).json
    expect(alone).toMatchObject({ id: 'red', parent: null })
    expect(JSON.stringify(list)).not.toContain(BASE)
    expect(JSON.stringify(list)).not.toContain('staff')
  })

  it('is explained by the same decision', async () => {
    const explain = async (key: string, model: string) => (await house.admin('POST', '/explain', { key, model })).json
    expect((await explain(ada.id, 'blue')).targets[0].decision).toEqual({ allowed: true, grantId: 'blue' })
    expect((await explain(ada.id, 'old')).targets[0].decision).toEqual({ allowed: false, reason: 'not-granted' })
    expect((await explain(ada.id, 'zeta-only')).model).toBe('unknown-or-disabled')
  })

  it('is loaded with equal column names of different tables kept apart', async () => {
    const loaded = await loadPolicy(drizzle(env.DB), { kind: 'key', keyId: ada.id })
    expect(loaded?.policy?.subject).toEqual({
      tenantId: 'acme',
      keyId: ada.id,
      userId: 'ada',
      groups: [],
      roles: [{ id: 'staff', enabled: true }],
      scopes: null,
    })
    const red = loaded?.policy?.registry.models.get('red')
    expect(red?.serves).toMatchObject({
      target: { tenantId: 'acme', id: 'red', digest: digest('1'), baseDigest: BASE },
    })
    if (loaded?.policy && red?.serves.kind === 'target') {
      expect(decide(loaded.policy, red.serves.target, NOW)).toEqual({ allowed: true, grantId: 'red' })
    }
  })
})
