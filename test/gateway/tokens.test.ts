// Tokens of issuers: who gets in, as whom, and every way in which a token is not one.
import { env } from 'cloudflare:workers'
import { exportJWK, generateKeyPair, SignJWT, UnsecuredJWT } from 'jose'
import { beforeAll, describe, expect, it } from 'vitest'
import { createApp } from '../../gateway/app.ts'
import { adapter, allow, createHouse, deny, type House, NOW, seed, toTenant } from './house.ts'

const ISSUER = 'https://login.example.test/'
const AUDIENCE = 'sidepath'
const JWKS = 'https://login.example.test/jwks'

let house: House
let app: ReturnType<typeof createApp>
let signingKey: CryptoKey
let published: object
let fetched = 0
let answer: () => Response | Promise<Response> = () => Response.json(published)

const seconds = (ms: number) => Math.floor(ms / 1000)

async function token(claims: Record<string, unknown> = {}, header: object = {}, key = signingKey): Promise<string> {
  const now = seconds(house.clock.now)
  return new SignJWT({ iss: ISSUER, aud: AUDIENCE, sub: 'ada', exp: now + 60, groups: ['hr'], ...claims })
    .setProtectedHeader({ alg: 'RS256', kid: 'one', ...header })
    .sign(key)
}

async function ask(bearer: string, model = 'red', path = '/v1/completions') {
  const { waitUntil, ...context } = {
    waitUntil: (promise: Promise<unknown>) => void promise,
    passThroughOnException() {},
    props: {},
  }
  const request = new Request(`http://gateway.test${path}`, {
    method: path === '/v1/completions' ? 'POST' : 'GET',
    headers: { authorization: `Bearer ${bearer}`, 'content-type': 'application/json' },
    ...(path === '/v1/completions' ? { body: JSON.stringify({ model, prompt: 'hi' }) } : {}),
  })
  const response = await app.fetch(request, env, { ...context, waitUntil })
  return { status: response.status, text: await response.text() }
}

beforeAll(async () => {
  house = await createHouse()
  await seed(house)
  const pair = await generateKeyPair('RS256')
  signingKey = pair.privateKey
  published = { keys: [{ ...(await exportJWK(pair.publicKey)), kid: 'one', alg: 'RS256', use: 'sig' }] }
  app = createApp({
    ...house.world,
    fetch: async (url, init) => {
      if (url !== JWKS) return house.world.fetch(url, init)
      fetched += 1
      expect(init.redirect).toBe('error')
      return answer()
    },
  })
  await house.admin('PUT', '/tenants/acme/groups/hr', {})
  await house.admin('PUT', '/tenants/acme/issuers/login', {
    issuer: ISSUER,
    audience: AUDIENCE,
    jwksUrl: JWKS,
    groupsClaim: 'groups',
  })
  await house.admin('PUT', '/tenants/acme/grants/hr', allow({ kind: 'group', id: 'hr' }, adapter('red')))
})

describe('a token of a registered issuer', () => {
  it('opens what its groups are granted, and nothing else', async () => {
    expect((await ask(await token())).status).toBe(200)
    expect((await ask(await token(), 'blue')).status).toBe(404)
    expect((await ask(await token({ groups: [] }))).status).toBe(404)
    expect((await ask(await token({ groups: ['unknown'] }))).status).toBe(404)
    expect(JSON.parse((await ask(await token(), '', '/v1/models')).text).data).toHaveLength(1)
  })

  it('records the user and no key', async () => {
    const row = await env.DB.prepare('SELECT * FROM usage WHERE key_id IS NULL ORDER BY created_at LIMIT 1').first()
    expect(row).toMatchObject({ tenant_id: 'acme', user_id: 'ada', model: 'red', grant_id: 'hr' })
  })

  it('belongs to the tenant of its issuer', async () => {
    await house.admin('PUT', '/tenants/zeta/groups/hr', {})
    await house.admin('PUT', '/tenants/zeta/grants/hr', allow({ kind: 'group', id: 'hr' }, adapter('blue')))
    expect((await ask(await token(), 'blue')).status).toBe(404)
    expect((await ask(await token(), 'zeta-only')).status).toBe(404)
  })

  it('of a user whom the registry knows has that user’s roles and groups too, and falls with him', async () => {
    house.clock.now += 2_000
    await house.admin('PUT', '/tenants/acme/grants/staff', allow({ kind: 'role', id: 'staff' }, adapter('blue')))
    house.clock.now += 2_000
    expect((await ask(await token({ groups: [] }), 'blue')).status).toBe(200)
    expect((await ask(await token({ groups: [], sub: 'eve' }), 'blue')).status).toBe(404)
    await house.admin('PUT', '/tenants/acme/users/ada', { disabled: true })
    house.clock.now += 2_000
    expect((await ask(await token())).status).toBe(401)
    expect((await ask(await token({ sub: 'eve' }))).status).toBe(200)
    await house.admin('PUT', '/tenants/acme/users/ada', {})
    house.clock.now += 2_000
  })

  it('is held to a deny of any of its groups', async () => {
    await house.admin('PUT', '/tenants/acme/groups/left', {})
    await house.admin('PUT', '/tenants/acme/grants/no', deny({ kind: 'group', id: 'left' }, adapter('red')))
    house.clock.now += 2_000
    expect((await ask(await token({ groups: ['hr', 'left'] }))).status).toBe(404)
    await house.admin('PUT', '/tenants/acme/groups/left', { disabled: true })
    house.clock.now += 2_000
    expect((await ask(await token({ groups: ['hr', 'left'] }))).status).toBe(404)
    expect(await ask(await token())).toMatchObject({ status: 200 })
  })

  it('opens no admin route', async () => {
    expect((await ask(await token(), '', '/admin/tenants')).status).toBe(403)
  })

  it('stops with its issuer', async () => {
    const body = { issuer: ISSUER, audience: AUDIENCE, jwksUrl: JWKS, groupsClaim: 'groups' }
    await house.admin('PUT', '/tenants/acme/issuers/login', { ...body, disabled: true })
    house.clock.now += 2_000
    expect((await ask(await token())).status).toBe(401)
    await house.admin('PUT', '/tenants/acme/issuers/login', body)
    house.clock.now += 2_000
    expect((await ask(await token())).status).toBe(200)
  })
})

describe('a token is refused', () => {
  const hour = 3_600
  it.each<[string, () => Promise<string>]>([
    ['expired', () => token({ exp: seconds(house.clock.now) - 31 })],
    ['without an expiry', () => token({ exp: undefined })],
    ['not yet valid', () => token({ nbf: seconds(house.clock.now) + hour })],
    ['for another audience', () => token({ aud: 'else' })],
    ['for no audience', () => token({ aud: undefined })],
    ['of an unknown issuer', () => token({ iss: 'https://evil.test/' })],
    ['of an issuer that only begins alike', () => token({ iss: `${ISSUER}x` })],
    ['without a subject', () => token({ sub: undefined })],
    ['with an empty subject', () => token({ sub: '' })],
    ['whose groups are no list, so that a deny of one cannot be told', () => token({ groups: 'hr' })],
    ['with more groups than are matched', () => token({ groups: Array.from({ length: 257 }, (_, i) => `g${i}`) })],
    ['signed by another key', async () => token({}, {}, (await generateKeyPair('RS256')).privateKey)],
    [
      'of an algorithm that the issuer does not use',
      async () => token({}, { alg: 'PS256' }, (await generateKeyPair('PS256')).privateKey),
    ],
    [
      'unsigned',
      async () => new UnsecuredJWT({ iss: ISSUER, aud: AUDIENCE, sub: 'ada', exp: seconds(NOW) + hour }).encode(),
    ],
    [
      'signed with the public key as a secret',
      () =>
        new SignJWT({ iss: ISSUER, aud: AUDIENCE, sub: 'ada', exp: seconds(house.clock.now) + 60 })
          .setProtectedHeader({ alg: 'HS256', kid: 'one' })
          .sign(new TextEncoder().encode(JSON.stringify(published))),
    ],
    ['that is cut', async () => (await token()).slice(0, -3)],
    [
      'whose payload was changed',
      async () => {
        const [head, , tail] = (await token()).split('.')
        const other = btoa(
          JSON.stringify({ iss: ISSUER, aud: AUDIENCE, sub: 'root', exp: seconds(NOW) + hour }),
        ).replaceAll('=', '')
        return `${head}.${other}.${tail}`
      },
    ],
    ['of three dots and nothing', async () => 'a.b.c'],
  ])('%s', async (_what, make) => {
    const reply = await ask(await make())
    expect(reply.status).toBe(401)
    expect(JSON.parse(reply.text).error.code).toBe('invalid_api_key')
  })
})

describe('the keys of an issuer', () => {
  it('are read once for many tokens', async () => {
    await ask(await token())
    const before = fetched
    for (let i = 0; i < 5; i++) expect((await ask(await token())).status).toBe(200)
    expect(fetched).toBe(before)
  })

  it('are read again for an unknown key id, at most every 30 s', async () => {
    house.clock.now += 31_000
    const before = fetched
    for (let i = 0; i < 5; i++) expect((await ask(await token({}, { kid: 'two' }))).status).toBe(401)
    expect(fetched).toBe(before + 1)
    const next = await generateKeyPair('RS256')
    const old = published
    published = { keys: [{ ...(await exportJWK(next.publicKey)), kid: 'two', alg: 'RS256' }] }
    house.clock.now += 31_000
    expect((await ask(await token({}, { kid: 'two' }, next.privateKey))).status).toBe(200)
    published = old
    house.clock.now += 31_000
    expect((await ask(await token())).status).toBe(200)
  })

  it('that cannot be read any more are not believed for ever: 503, and nobody in', async () => {
    for (const broken of [
      () => new Response('no', { status: 500 }),
      () => new Response('{"keys": 1}'),
      () => new Response('x'.repeat(300 * 1024)),
      () => Promise.reject(new Error('refused')),
    ]) {
      house.clock.now += 600_000
      answer = broken
      const reply = await ask(await token())
      expect([reply.status, JSON.parse(reply.text).error.code]).toEqual([503, 'issuer_unavailable'])
      answer = () => Response.json(published)
      expect((await ask(await token())).status).toBe(200)
    }
  })

  it('come from an address that an operator registered over https, and no other', async () => {
    for (const jwksUrl of [
      'http://login.example.test/jwks',
      'https://u:p@login.example.test/',
      'file:///etc/passwd',
      'https://x/#y',
      'x',
    ]) {
      const reply = await house.call('PUT', '/admin/tenants/acme/issuers/other', house.adminKey, {
        issuer: 'https://other.test',
        audience: AUDIENCE,
        jwksUrl,
      })
      expect([jwksUrl, reply.status]).toEqual([jwksUrl, 400])
    }
    const hs = { issuer: 'https://other.test', audience: 'a', jwksUrl: JWKS, algorithms: ['HS256'] }
    expect((await house.call('PUT', '/admin/tenants/acme/issuers/other', house.adminKey, hs)).status).toBe(400)
  })

  it('are of one tenant: an issuer cannot be registered twice', async () => {
    const body = { issuer: ISSUER, audience: AUDIENCE, jwksUrl: JWKS }
    const reply = await house.call('PUT', '/admin/tenants/zeta/issuers/login', house.adminKey, body)
    expect([reply.status, reply.json.error.code]).toEqual([400, 'already_exists'])
    await house.admin('PUT', '/tenants/acme/grants/all', allow(toTenant, adapter('blue')))
  })
})
