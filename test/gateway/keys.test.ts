// Keys: their shape, how they are kept, and who gets past the guard.
import { env } from 'cloudflare:workers'
import { beforeAll, describe, expect, it } from 'vitest'
import { toHex } from '../../gateway/digest.ts'
import { crc32, generateKey, parseKey } from '../../gateway/identity/key-format.ts'
import { mintKey, type Peppers, parsePeppers, verifyKey } from '../../gateway/identity/keys.ts'
import { adapter, allow, createHouse, type House, NOW, seed, toTenant } from './house.ts'

const pepper = (text: string) => btoa(text.padEnd(32, '.'))
const peppersOf = (current: string, ...versions: string[]) => {
  const keys = Object.fromEntries(versions.map((version) => [version, pepper(`pepper ${version}`)]))
  const parsed = parsePeppers(JSON.stringify({ current, keys }))
  if (parsed === null) throw new Error('unusable')
  return parsed
}

describe('the shape of a key', () => {
  it('matches the published check value of CRC-32', () => {
    expect(crc32('123456789')).toBe(0xcbf43926)
  })

  it('reads its own keys back and no others', () => {
    const { id, key } = generateKey('test')
    expect(key).toMatch(/^sp_test_[0-9A-Za-z]{16}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}$/)
    expect(parseKey(key, 'test')).toBe(id)
    expect(parseKey(key, 'live')).toBeNull()
  })

  it('refuses every single-character change and every truncation', () => {
    const { key } = generateKey('test')
    for (let at = 0; at < key.length; at++) {
      const other = key[at] === 'A' ? 'B' : 'A'
      expect(parseKey(key.slice(0, at) + other + key.slice(at + 1), 'test')).toBeNull()
      expect(parseKey(key.slice(0, at), 'test')).toBeNull()
    }
    expect(parseKey(`${key}\n`, 'test')).toBeNull()
    expect(parseKey(`${key}0`, 'test')).toBeNull()
  })
})

describe('keys at rest', () => {
  const mint = (peppers: Peppers) => {
    const { key, ...stored } = mintKey('test', peppers)
    return { key, stored: { ...stored, previous: null } }
  }

  it('are the HMAC-SHA-256 of web crypto under the pepper', async () => {
    const peppers = peppersOf('1', '1')
    const { key, stored } = mint(peppers)
    const secret = peppers.keys.get('1') ?? new Uint8Array()
    const imported = await crypto.subtle.importKey('raw', secret, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign'])
    const mac = await crypto.subtle.sign('HMAC', imported, new TextEncoder().encode(key))
    expect(stored.mac).toBe(toHex(mac))
  })

  it('verify under the pepper version that they were stored with, after the pepper was rotated', () => {
    const { key, stored } = mint(peppersOf('1', '1'))
    expect(verifyKey(key, stored, peppersOf('2', '1', '2'), NOW)).toBe(true)
    expect(verifyKey(key, stored, peppersOf('2', '2'), NOW)).toBe(false)
  })

  it('refuse another secret, an unknown key and a MAC of the wrong length', () => {
    const peppers = peppersOf('1', '1')
    const { key, stored } = mint(peppers)
    expect(verifyKey(key, stored, peppers, NOW)).toBe(true)
    expect(verifyKey(mint(peppers).key, stored, peppers, NOW)).toBe(false)
    expect(verifyKey(key, undefined, peppers, NOW)).toBe(false)
    expect(verifyKey(key, { ...stored, mac: '' }, peppers, NOW)).toBe(false)
  })

  it.each([
    ['not JSON', 'x'],
    ['a short pepper', JSON.stringify({ current: '1', keys: { 1: btoa('short') } })],
    ['a current version that is not there', JSON.stringify({ current: '2', keys: { 1: pepper('a') } })],
    ['an inherited name as version', JSON.stringify({ current: 'constructor', keys: { 1: pepper('a') } })],
    ['no keys', JSON.stringify({ current: '1' })],
  ])('refuses peppers with %s', (_, text) => {
    expect(parsePeppers(text)).toBeNull()
  })
})

describe('authentication', () => {
  let house: House
  let user: { id: string; key: string }
  beforeAll(async () => {
    house = await createHouse()
    await seed(house)
    await house.admin('PUT', '/tenants/acme/grants/g', allow(toTenant, adapter('red')))
    user = await house.mint('acme', { user: 'ada' })
  })

  it('accepts a live key', async () => {
    expect(await house.models(user.key)).toEqual(['red'])
  })

  it('stores neither the key nor anything of its secret beyond the last four characters', async () => {
    const { results } = await env.DB.prepare('SELECT * FROM keys WHERE id = ?').bind(user.id).all()
    const stored = JSON.stringify(results)
    expect(stored).not.toContain(user.key)
    expect(stored).not.toContain(user.key.split('_')[3])
    expect(results[0]).toMatchObject({ pepper_version: '2', last4: user.key.slice(-4) })
  })

  it('gives every kind of failure the same 401, and never an anonymous principal', async () => {
    const expired = await house.mint('acme', { expiresAt: NOW })
    const disabled = await house.mint('acme')
    await house.admin('PATCH', `/keys/${disabled.id}`, { disabled: true })
    await house.admin('PUT', '/tenants/acme/users/gone', {})
    const ofDisabledUser = await house.mint('acme', { user: 'gone' })
    await house.admin('PUT', '/tenants/acme/users/gone', { disabled: true })
    await house.admin('PUT', '/tenants/closed', { maxTokens: 1 })
    const ofDisabledTenant = await house.mint('closed')
    await house.admin('PUT', '/tenants/closed', { maxTokens: 1, disabled: true })
    const unknown = generateKey('test').key
    const headers = [
      undefined,
      'Bearer ',
      `Bearer ${unknown}`,
      `Bearer ${expired.key}`,
      `Bearer ${disabled.key}`,
      `Bearer ${ofDisabledUser.key}`,
      `Bearer ${ofDisabledTenant.key}`,
      `Basic ${btoa(`:${user.key}`)}`,
      `bearer-ish ${user.key}`,
      `Bearer ${user.key} ${user.key}`,
      "Bearer ' OR '1'='1",
      'Bearer sp_test_',
      `Bearer ${user.key.slice(0, 20)}`,
    ]
    const answers = new Set<string>()
    for (const authorization of headers) {
      const { response } = await house.open('/v1/models', authorization ? { headers: { authorization } } : {})
      expect(response.status, authorization).toBe(401)
      expect(response.headers.get('www-authenticate')).toBe('Bearer')
      answers.add(await response.text())
    }
    expect([...answers]).toEqual([
      '{"error":{"message":"The API key is missing or not valid.","type":"authentication_error","param":null,"code":"invalid_api_key"}}',
    ])
  })

  it('asks the database only where format and checksum are right', async () => {
    const failing = {
      ...env,
      DB: {
        prepare: () => {
          throw new Error('asked')
        },
        batch: () => {
          throw new Error('asked')
        },
      },
    }
    expect((await house.call('GET', '/v1/models', 'sp_test_typo', undefined, failing)).status).toBe(401)
    expect((await house.call('GET', '/v1/models', user.key, undefined, failing)).status).toBe(503)
  })

  it('accepts a key of the same id but another secret nowhere', async () => {
    const forged = generateKey('test')
    await env.DB.prepare(
      "INSERT INTO keys (id, class, tenant_id, mac, pepper_version, last4, disabled, created_at) VALUES (?, 'user', 'acme', ?, '2', 'xxxx', 0, 0)",
    )
      .bind(forged.id, '00'.repeat(32))
      .run()
    expect((await house.call('GET', '/v1/models', forged.key)).status).toBe(401)
  })

  it('revokes with the next request', async () => {
    const key = await house.mint('acme')
    expect((await house.call('GET', '/v1/models', key.key)).status).toBe(200)
    await house.admin('PATCH', `/keys/${key.id}`, { disabled: true })
    expect((await house.call('GET', '/v1/models', key.key)).status).toBe(401)
  })

  it('keeps the classes apart: admin keys cannot infer, user keys cannot administrate', async () => {
    for (const reply of [
      await house.ask(house.adminKey, 'red'),
      await house.call('GET', '/v1/models', house.adminKey),
      await house.call('GET', '/admin/tenants', user.key),
    ]) {
      expect(reply.status).toBe(403)
      expect(reply.json.error.code).toBe('wrong_key_class')
    }
  })

  it('ends at expiry, not after', async () => {
    const key = await house.mint('acme', { expiresAt: NOW + 10 })
    house.clock.now = NOW + 9
    expect((await house.call('GET', '/v1/models', key.key)).status).toBe(200)
    house.clock.now = NOW + 10
    expect((await house.call('GET', '/v1/models', key.key)).status).toBe(401)
    house.clock.now = NOW
  })
})
