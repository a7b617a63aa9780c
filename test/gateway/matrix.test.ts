// The matrix: what every route answers to every kind of caller, under every disguise. The lines below state the answers;
// the routes come from the gateway itself, so a route that is added without a line fails.
import { env } from 'cloudflare:workers'
import { exportJWK, generateKeyPair, SignJWT } from 'jose'
import { beforeAll, describe, expect, it } from 'vitest'
import { createApp } from '../../gateway/app.ts'
import { generateKey } from '../../gateway/identity/key-format.ts'
import { adapter, allow, BASE, base, createHouse, digest, type House, seed, toTenant } from './house.ts'

interface Line {
  readonly plane: 'public' | 'user' | 'admin'
  /** Of the rightful caller. */
  readonly answer: number
  /** Of a user who is granted nothing, or is of another tenant; left out, as the rightful one. */
  readonly ungranted?: number
  readonly body?: object
  readonly query?: Readonly<Record<string, string>>
  /** Values of the path's parameters; the rest are ids that exist. */
  readonly params?: Readonly<Record<string, string>>
}

const EXISTING: Readonly<Record<string, string>> = {
  tenant: 'acme',
  user: 'ada',
  role: 'staff',
  group: 'hr',
  issuer: 'login',
  digest: BASE,
  backend: 'one',
  adapter: 'red',
  model: 'red',
  grant: 'hr',
  experiment: 'trial',
  metric: 'helpful',
  limit: 'wide',
  price: 'red',
  job: 'f'.repeat(64),
  receipt: 'e'.repeat(32),
}
const ISSUER = 'https://login.matrix.test/'
/** Every change of the matrix writes what is there already, so that no line depends on another. */
const issuer = { issuer: ISSUER, audience: 'a', jwksUrl: `${ISSUER}jwks`, groupsClaim: 'groups', algorithms: ['ES256'] }
const red = { name: 'red', version: 1, digest: digest('1'), base: BASE }
const arms = [
  { id: 'a', weight: 5_000, adapter: 'red' },
  { id: 'b', weight: 5_000, adapter: 'blue' },
]
const wide = { scope: { kind: 'tenant' }, metric: 'requests', window: 'day', amount: 1_000_000 }
const price = { resource: { kind: 'adapter', id: 'red' }, promptPrice: 1, completionPrice: 2 }
const infer = { model: 'red', prompt: 'hi' }
const chat = { model: 'red', messages: [{ role: 'user', content: 'hi' }] }
const compile = {
  name: 'm',
  target: 'merged',
  base: { files: { 'config.json': digest('c') } },
  adapters: [{ adapter: 'red', files: { 'adapter_config.json': digest('d') } }],
}

const LINES: Readonly<Record<string, Line>> = {
  'GET /healthz': { plane: 'public', answer: 503 },
  'GET /openapi.json': { plane: 'public', answer: 200 },
  'GET /docs': { plane: 'public', answer: 200 },
  'GET /v1/models': { plane: 'user', answer: 200 },
  'GET /v1/models/:model': { plane: 'user', answer: 200, ungranted: 404 },
  'POST /v1/chat/completions': { plane: 'user', answer: 200, ungranted: 404, body: chat },
  // The model is no encoder, so the backend of this house would refuse; what it answers is passed on.
  'POST /v1/embeddings': { plane: 'user', answer: 200, ungranted: 404, body: { model: 'red', input: 'hi' } },
  'POST /v1/completions': { plane: 'user', answer: 200, ungranted: 404, body: infer },
  'POST /v1/feedback': {
    plane: 'user',
    answer: 404,
    body: { receipt: 'e'.repeat(32), metric: 'helpful', value: 1 },
  },
  // Nobody here may promote, and who may not is told what he would be told of no experiment.
  'POST /v1/experiments/:experiment/promote': { plane: 'user', answer: 404, body: { arm: 'b' } },
  'POST /v1/experiments/:experiment/roll-back': { plane: 'user', answer: 404, body: {} },
  'GET /admin/tenants': { plane: 'admin', answer: 200 },
  'PUT /admin/tenants/:tenant': { plane: 'admin', answer: 200, body: { maxTokens: 64 } },
  'GET /admin/tenants/:tenant/users': { plane: 'admin', answer: 200 },
  'PUT /admin/tenants/:tenant/users/:user': { plane: 'admin', answer: 200, body: {} },
  'GET /admin/tenants/:tenant/roles': { plane: 'admin', answer: 200 },
  'PUT /admin/tenants/:tenant/roles/:role': { plane: 'admin', answer: 200, body: {} },
  'GET /admin/tenants/:tenant/groups': { plane: 'admin', answer: 200 },
  'PUT /admin/tenants/:tenant/groups/:group': { plane: 'admin', answer: 200, body: {} },
  'GET /admin/tenants/:tenant/issuers': { plane: 'admin', answer: 200 },
  'PUT /admin/tenants/:tenant/issuers/:issuer': {
    plane: 'admin',
    answer: 200,
    body: issuer,
  },
  'GET /admin/keys': { plane: 'admin', answer: 200 },
  'POST /admin/keys': { plane: 'admin', answer: 201, body: {} },
  'GET /admin/tenants/:tenant/keys': { plane: 'admin', answer: 200 },
  'POST /admin/tenants/:tenant/keys': { plane: 'admin', answer: 201, body: {} },
  'PATCH /admin/keys/:key': { plane: 'admin', answer: 404, body: { disabled: true }, params: { key: 'z'.repeat(16) } },
  'POST /admin/keys/:key/rotate': { plane: 'admin', answer: 404, body: {}, params: { key: 'z'.repeat(16) } },
  'GET /admin/bases': { plane: 'admin', answer: 200 },
  'PUT /admin/bases/:digest': { plane: 'admin', answer: 200, body: {} },
  'GET /admin/backends': { plane: 'admin', answer: 200 },
  'PUT /admin/backends/:backend': { plane: 'admin', answer: 200, body: { url: 'http://one.test', base: BASE } },
  'GET /admin/backends/:backend/adapters': { plane: 'admin', answer: 200 },
  // The backend of this house is one of ours, which has no names to be given.
  'PUT /admin/backends/:backend/adapters/:digest': { plane: 'admin', answer: 400, body: { upstream: 'red' } },
  'DELETE /admin/backends/:backend/adapters/:digest': { plane: 'admin', answer: 404 },
  'POST /admin/backends/:backend/adapters/:digest/probe': { plane: 'admin', answer: 400, body: {} },
  'GET /admin/tenants/:tenant/adapters': { plane: 'admin', answer: 200 },
  'PUT /admin/tenants/:tenant/adapters/:adapter': { plane: 'admin', answer: 200, body: red },
  // There is no compiler service in this house.
  'POST /admin/tenants/:tenant/compiles': { plane: 'admin', answer: 503, body: compile },
  'GET /admin/tenants/:tenant/compiles/:job': { plane: 'admin', answer: 404 },
  'GET /admin/tenants/:tenant/models': { plane: 'admin', answer: 200 },
  'PUT /admin/tenants/:tenant/models/:model': { plane: 'admin', answer: 200, body: { adapter: 'red' } },
  'GET /admin/tenants/:tenant/grants': { plane: 'admin', answer: 200 },
  'PUT /admin/tenants/:tenant/grants/:grant': {
    plane: 'admin',
    answer: 200,
    body: allow({ kind: 'group', id: 'hr' }, adapter('red')),
  },
  'DELETE /admin/tenants/:tenant/grants/:grant': { plane: 'admin', answer: 404, params: { grant: 'none' } },
  'GET /admin/tenants/:tenant/experiments': { plane: 'admin', answer: 200 },
  'GET /admin/tenants/:tenant/experiments/:experiment': { plane: 'admin', answer: 200 },
  'PUT /admin/tenants/:tenant/experiments/:experiment': { plane: 'admin', answer: 200, body: { arms } },
  'PATCH /admin/tenants/:tenant/experiments/:experiment': { plane: 'admin', answer: 200, body: { status: 'draft' } },
  'GET /admin/tenants/:tenant/experiments/:experiment/exposures': { plane: 'admin', answer: 200 },
  'GET /admin/tenants/:tenant/experiments/:experiment/results': { plane: 'admin', answer: 200 },
  'POST /admin/tenants/:tenant/experiments/:experiment/guardrails': { plane: 'admin', answer: 200, body: {} },
  'POST /admin/tenants/:tenant/experiments/:experiment/promote': {
    plane: 'admin',
    answer: 404,
    body: { arm: 'b' },
    params: { experiment: 'none' },
  },
  'POST /admin/tenants/:tenant/experiments/:experiment/roll-back': {
    plane: 'admin',
    answer: 404,
    body: {},
    params: { experiment: 'none' },
  },
  'GET /admin/tenants/:tenant/metrics': { plane: 'admin', answer: 200 },
  'PUT /admin/tenants/:tenant/metrics/:metric': { plane: 'admin', answer: 200, body: {} },
  'GET /admin/tenants/:tenant/usage': { plane: 'admin', answer: 200 },
  'GET /admin/receipts/:receipt': { plane: 'admin', answer: 404 },
  'GET /admin/tenants/:tenant/limits': { plane: 'admin', answer: 200 },
  'PUT /admin/tenants/:tenant/limits/:limit': { plane: 'admin', answer: 200, body: wide },
  'GET /admin/tenants/:tenant/limits/:limit/windows': { plane: 'admin', answer: 200 },
  'GET /admin/tenants/:tenant/prices': { plane: 'admin', answer: 200 },
  'PUT /admin/tenants/:tenant/prices/:price': { plane: 'admin', answer: 200, body: price },
  'DELETE /admin/tenants/:tenant/prices/:price': { plane: 'admin', answer: 404, params: { price: 'no-such' } },
  'GET /admin/tenants/:tenant/usage/export': { plane: 'admin', answer: 200, query: { from: '0', to: '1' } },
  'GET /admin/audit': { plane: 'admin', answer: 200 },
  'GET /admin/openapi.json': { plane: 'admin', answer: 200 },
  'GET /admin/docs': { plane: 'admin', answer: 200 },
  'POST /admin/explain': { plane: 'admin', answer: 404, body: { key: 'z'.repeat(16), model: 'red' } },
}

/** Who asks → what each plane answers him; a number is the answer whatever the line says. */
type Expected = number | 'rightful' | 'ungranted'
const CALLERS: Readonly<Record<string, { readonly user: Expected; readonly admin: Expected }>> = {
  nobody: { user: 401, admin: 401 },
  'a malformed key': { user: 401, admin: 401 },
  'a key that was never minted': { user: 401, admin: 401 },
  'a key with another secret': { user: 401, admin: 401 },
  'a key of another environment': { user: 401, admin: 401 },
  'a key in the URL alone': { user: 401, admin: 401 },
  'a key under another scheme': { user: 401, admin: 401 },
  'a key of the tenant': { user: 'rightful', admin: 403 },
  'a key of the tenant, of a user': { user: 'rightful', admin: 403 },
  'a key of the tenant, granted nothing': { user: 'ungranted', admin: 403 },
  'a key whose scopes leave nothing': { user: 'ungranted', admin: 403 },
  'a key of another tenant': { user: 'ungranted', admin: 403 },
  'an expired key': { user: 401, admin: 401 },
  'a revoked key': { user: 401, admin: 401 },
  'a key before its rotation': { user: 401, admin: 401 },
  // Of a user key the admin plane sees the class, and does not ask whose it is.
  'a key of a disabled user': { user: 401, admin: 403 },
  'a key of a disabled tenant': { user: 401, admin: 403 },
  'an admin key': { user: 403, admin: 'rightful' },
  'a revoked admin key': { user: 401, admin: 401 },
  'an expired admin key': { user: 401, admin: 401 },
  'a token of an issuer': { user: 'rightful', admin: 403 },
  'a token without a group': { user: 'ungranted', admin: 403 },
  'an expired token': { user: 401, admin: 401 },
}

const DISGUISES = ['plain', 'an odd Host', '?model=', 'duplicate JSON keys'] as const

let house: House
let app: ReturnType<typeof createApp>
const credentials = new Map<string, { readonly header?: string; readonly query?: string }>()
const routes = (): string[] => [
  ...new Set(house.app.routes.filter(({ method }) => method !== 'ALL').map(({ method, path }) => `${method} ${path}`)),
]

beforeAll(async () => {
  house = await createHouse()
  await seed(house)
  const { admin, mint } = house
  await admin('PUT', '/tenants/acme/groups/hr', {})
  await admin('PUT', '/tenants/acme/issuers/login', issuer)
  await admin('PUT', '/tenants/acme/users/gone', {})
  await admin('PUT', '/tenants/shut', { maxTokens: 1 })
  await admin('PUT', '/tenants/acme/experiments/trial', { arms })
  await admin('PUT', '/tenants/acme/metrics/helpful', {})
  await admin('PUT', '/tenants/acme/models/blue', { adapter: 'blue' })
  await admin('PUT', '/tenants/acme/limits/wide', wide)
  await admin('PUT', '/tenants/acme/prices/red', price)
  // To the holders one by one: what one tenant's every key may use would leave nobody ungranted.
  const own = await mint('acme')
  const ofUser = await mint('acme', { user: 'ada' })
  const scoped = await mint('acme', { scopes: ['train'] })
  await admin('PUT', '/tenants/acme/grants/red', allow({ kind: 'key', id: own.id }, adapter('red')))
  await admin('PUT', '/tenants/acme/grants/ada', allow({ kind: 'user', id: 'ada' }, adapter('red')))
  await admin('PUT', '/tenants/acme/grants/scoped', allow({ kind: 'key', id: scoped.id }, adapter('red')))
  await admin('PUT', '/tenants/acme/grants/hr', allow({ kind: 'group', id: 'hr' }, adapter('red')))
  await admin('PUT', '/tenants/zeta/grants/base', allow(toTenant, base))
  const revoke = async ({ id, key }: { id: string; key: string }) => {
    await admin('PATCH', `/keys/${id}`, { disabled: true })
    return key
  }
  const rotated = await mint('acme')
  await admin('POST', `/keys/${rotated.id}/rotate`, {})
  const { key: gone } = await mint('acme', { user: 'gone' })
  await admin('PUT', '/tenants/acme/users/gone', { disabled: true })
  const { key: shut } = await mint('shut')
  await admin('PUT', '/tenants/shut', { maxTokens: 1, disabled: true })
  const past = { expiresAt: house.clock.now }
  const mintAdmin = async (body: object) => (await admin('POST', '/keys', body)).json
  const pair = await generateKeyPair('ES256')
  const published = { keys: [{ ...(await exportJWK(pair.publicKey)), kid: 'one', alg: 'ES256' }] }
  const token = (groups: string[], age = -60) =>
    new SignJWT({ iss: ISSUER, aud: 'a', sub: 'eve', exp: Math.floor(house.clock.now / 1000) - age, groups })
      .setProtectedHeader({ alg: 'ES256', kid: 'one' })
      .sign(pair.privateKey)
  app = createApp({
    ...house.world,
    fetch: async (url, init) => (url === `${ISSUER}jwks` ? Response.json(published) : house.world.fetch(url, init)),
  })
  const bearer = (key: string) => ({ header: `Bearer ${key}` })
  for (const [caller, credential] of Object.entries({
    nobody: {},
    'a malformed key': bearer('sp_test_x'),
    'a key that was never minted': bearer(generateKey('test').key),
    'a key with another secret': bearer(generateKey('test', own.id).key),
    'a key of another environment': bearer(generateKey('live', own.id).key),
    'a key in the URL alone': { query: `api_key=${own.key}&key=${own.key}&authorization=Bearer%20${own.key}` },
    'a key under another scheme': { header: `Basic ${btoa(`x:${own.key}`)}` },
    'a key of the tenant': bearer(own.key),
    'a key of the tenant, of a user': bearer(ofUser.key),
    'a key of the tenant, granted nothing': bearer((await mint('acme')).key),
    'a key whose scopes leave nothing': bearer(scoped.key),
    'a key of another tenant': bearer((await mint('zeta')).key),
    'an expired key': bearer((await mint('acme', past)).key),
    'a revoked key': bearer(await revoke(await mint('acme'))),
    'a key before its rotation': bearer(rotated.key),
    'a key of a disabled user': bearer(gone),
    'a key of a disabled tenant': bearer(shut),
    'an admin key': bearer(house.adminKey),
    'a revoked admin key': bearer(await revoke(await mintAdmin({}))),
    'an expired admin key': bearer((await mintAdmin(past)).key),
    'a token of an issuer': bearer(await token(['hr'])),
    'a token without a group': bearer(await token([])),
    'an expired token': bearer(await token(['hr'], 60)),
  })) {
    credentials.set(caller, credential)
  }
})

async function ask(route: string, line: Line, caller: string, disguise: (typeof DISGUISES)[number]) {
  const [method = '', path = ''] = route.split(' ')
  const { header, query } = credentials.get(caller) ?? {}
  const filled = path.replaceAll(/:(\w+)/g, (_, name: string) => line.params?.[name] ?? EXISTING[name] ?? 'unnamed')
  const url = new URL(`http://gateway.test${filled}`)
  if (query !== undefined) url.search = query
  for (const [name, value] of Object.entries(line.query ?? {})) url.searchParams.set(name, value)
  if (disguise === '?model=') url.searchParams.set('model', 'blue')
  let body = line.body === undefined ? undefined : JSON.stringify(line.body)
  if (disguise === 'duplicate JSON keys' && body !== undefined)
    body = `{"model":"blue",${'"model":"red",'}${body.slice(1)}`
  if (body?.endsWith(',}')) body = `${body.slice(0, -2)}}`
  const request = new Request(url, {
    method,
    headers: {
      ...(header === undefined ? {} : { authorization: header }),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...(disguise === 'an odd Host'
        ? { host: 'x/#@evil', 'x-forwarded-host': 'evil', 'x-original-url': '/healthz' }
        : {}),
    },
    ...(body === undefined ? {} : { body }),
  })
  const settled: Promise<unknown>[] = []
  const response = await app.fetch(request, env, {
    waitUntil: (promise: Promise<unknown>) => settled.push(promise),
    passThroughOnException() {},
    props: {},
  } as unknown as ExecutionContext)
  const text = await response.text()
  await Promise.all(settled)
  return { status: response.status, text }
}

function expected(line: Line, caller: string, disguise: (typeof DISGUISES)[number]): number {
  if (line.plane === 'public') return line.answer
  const said = CALLERS[caller]?.[line.plane]
  // Who may not ask at all learns nothing of what is wrong with the body.
  if (typeof said === 'number') return said
  if (disguise === 'duplicate JSON keys' && line.body !== undefined) return 400
  return said === 'ungranted' ? (line.ungranted ?? line.answer) : line.answer
}

describe('the matrix', () => {
  it('has a line for every route and for no other', () => {
    expect(Object.keys(LINES).sort()).toEqual(routes().sort())
  })

  it('has a credential for every caller and for no other', () => {
    expect([...credentials.keys()].sort()).toEqual(Object.keys(CALLERS).sort())
  })

  it.each(Object.entries(LINES))('%s answers every caller, under every disguise, as stated', async (route, line) => {
    for (const caller of Object.keys(CALLERS)) {
      for (const disguise of DISGUISES) {
        const { status, text } = await ask(route, line, caller, disguise)
        expect([route, caller, disguise, status]).toEqual([route, caller, disguise, expected(line, caller, disguise)])
        if (status === 401) expect(JSON.parse(text).error.code).toBe('invalid_api_key')
        if (status === 403) expect(JSON.parse(text).error.code).toBe('wrong_key_class')
      }
    }
  })

  it('gives the ungranted and the unknown the same bytes', async () => {
    const line = LINES['POST /v1/completions'] as Line
    const forbidden = await ask('POST /v1/completions', line, 'a key of the tenant, granted nothing', 'plain')
    const unknown = await ask(
      'POST /v1/completions',
      { ...line, body: { ...infer, model: 'no-such' } },
      'a key of the tenant',
      'plain',
    )
    expect(forbidden).toEqual(unknown)
  })

  it('lists for the ungranted nothing', async () => {
    const line = LINES['GET /v1/models'] as Line
    for (const caller of [
      'a key of the tenant, granted nothing',
      'a key whose scopes leave nothing',
      'a token without a group',
    ]) {
      expect(JSON.parse((await ask('GET /v1/models', line, caller, 'plain')).text).data).toEqual([])
    }
  })
})
