// Every operation of the OpenAPI documents under generated requests: valid, nearly valid and hostile, by every kind of
// caller. No 5xx where nothing is broken, no status, content type or body that is not declared, no word of what is inside.
// SIDEPATH_FUZZ_TIMES=100 is a long run, SIDEPATH_FUZZ_SEED another one.
import { env } from 'cloudflare:workers'
import { Validator } from '@cfworker/json-schema'
import fc from 'fast-check'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import publicDocument from '../../docs/openapi.json' with { type: 'json' }
import adminDocument from '../../docs/openapi-admin.json' with { type: 'json' }
import { generateKey } from '../../gateway/identity/key-format.ts'
import type { OpenApi, Operation, Schema } from '../../gateway/reference/openapi.ts'
import { adapter, allow, BASE, base, createHouse, digest, type House, seed, toTenant } from './house.ts'
import { type Body, bodyOf, headerOf, type Json, type Known, queryOf, segmentOf } from './openapi-inputs.ts'
import { answerForFuzz, COMPILER, COMPILER_TOKEN, HOSTS } from './openapi-upstreams.ts'

const RUNS = 32
/** Requests come faster than a flood guard lets through; it has a test of its own. */
const unguarded = { FLOOD_BY_ADDRESS: undefined, FLOOD_BY_KEY: undefined }
const bindings = { ...env, ...unguarded, COMPILER_URL: COMPILER, COMPILER_TOKEN }

/** Codes of 5xx that say of something else than the gateway that it is broken, and the operations that may say so. */
const UPSTREAM = /^POST \/v1\/(chat\/completions|completions|embeddings)$/
const BROKEN: Readonly<Record<string, RegExp>> = {
  // Of a backend that a generated change of the registry, or a fault of the stand-in, took away.
  no_backend: UPSTREAM,
  upstream_failed: UPSTREAM,
  upstream_timeout: UPSTREAM,
  upstream_invalid: UPSTREAM,
  price_missing: UPSTREAM,
  // The stand-in of the compiler answers with what is no manifest.
  compiler_failed: /^(GET|POST) \/admin\/tenants\/\{tenant\}\/compiles/,
}
/** What no answer and no header may say, whoever asks for what. */
const INSIDE =
  /\bat .{1,80}:\d+:\d+|node_modules|\b(SELECT|INSERT INTO|UPDATE|DELETE FROM) ["'`]?[a-z_]+["'`]? ?(\(|SET|FROM|WHERE|,)|SQLITE_|D1_ERROR|constraint failed|[Dd]rizzle|libsql|no such (table|column)|\.ts\b:|\/(home|work|root|tmp)\/|internal-host-7/

interface Named {
  readonly method: string
  readonly path: string
  readonly operation: Operation
  readonly document: OpenApi
}
const documents = [publicDocument, adminDocument] as unknown as readonly OpenApi[]
const operations: readonly Named[] = documents.flatMap((document) =>
  Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ method: method.toUpperCase(), path, operation, document })),
  ),
)

let house: House
let known: Known
/** Who asks: the rightful one far more often than anybody else. */
let callers: Readonly<Record<'user' | 'admin', readonly (string | null)[]>>
/** Since things were as they begin. */
let changed = true
const tally = new Map<number, number>()

const receipt = 'e'.repeat(32)
const EXISTING = [
  'acme',
  'zeta',
  'ada',
  'staff',
  'hr',
  'login',
  'red',
  'blue',
  'one',
  'two',
  'trial',
  'helpful',
  'wide',
]

/** What generated changes may have taken away, so that each operation begins where things work. */
async function restore(): Promise<void> {
  const statements = [
    "DELETE FROM grants WHERE effect = 'deny'",
    'DELETE FROM limits',
    'DELETE FROM prices',
    ...['tenants', 'users', 'roles', 'groups', 'issuers', 'keys', 'bases', 'adapters', 'models'].map(
      (table) => `UPDATE ${table} SET disabled = 0 WHERE disabled = 1`,
    ),
    'UPDATE tenants SET max_tokens = 64',
    'DELETE FROM backend_adapters',
    'DELETE FROM backends',
  ]
  for (const statement of statements) await env.DB.prepare(statement).run()
  await seed(house)
  const { admin, mint } = house
  await admin('PUT', '/backends/two', TWO)
  for (const [id, resource] of Object.entries({ red: adapter('red'), blue: adapter('blue'), plain: base })) {
    const actions = ['infer', 'list', 'promote']
    await admin('PUT', `/tenants/acme/grants/${id}`, allow(toTenant, resource, { actions }))
  }
  await admin('PUT', '/tenants/acme/models/auto-red', { adapter: 'red', autoRank: 1 })
  await admin('PUT', '/tenants/acme/prices/red', price)
  await admin('PUT', '/tenants/acme/limits/wide', wide)
  await admin('PUT', `/backends/two/adapters/${digest('1')}`, { upstream: 'red-v1' })
  await house.call(
    'POST',
    '/admin/tenants/acme/compiles',
    house.adminKey,
    SEEDS['POST /admin/tenants/{tenant}/compiles']?.[0],
    bindings,
  )
  const [own, gone, other] = [await mint('acme', { user: 'ada' }), await mint('acme'), await mint('zeta')]
  await admin('PATCH', `/keys/${gone.id}`, { disabled: true })
  const wrong = [
    null,
    'sp_test_x',
    `${own.key}x`,
    gone.key,
    generateKey('test').key,
    generateKey('live', own.id).key,
    `${'a'.repeat(300)}.${'b'.repeat(300)}.${'c'.repeat(300)}`,
    'eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2xvZ2luLnRlc3QvIiwic3ViIjoiZXZlIn0.AA',
    '\u00ff\u00fe',
    'x'.repeat(9_000),
  ]
  const often = (key: string) => Array.from({ length: 24 }, () => key)
  callers = {
    user: [...often(own.key), other.key, house.adminKey, ...wrong],
    admin: [...often(house.adminKey), own.key, ...wrong],
  }
  const keyIds = [own.id, gone.id, other.id]
  const requests = await env.DB.prepare('SELECT request_id, receipt FROM usage ORDER BY created_at DESC LIMIT 4').all<{
    request_id: string
    receipt: string
  }>()
  const ran = requests.results
  known = {
    byName: {
      tenant: ['acme'],
      user: ['ada'],
      role: ['staff'],
      group: ['hr'],
      adapter: ['red', 'blue'],
      backend: ['one', 'two'],
      grant: ['red', 'blue', 'plain'],
      price: ['red'],
      limit: ['wide'],
      digest: [BASE, digest('1')],
      base: [BASE],
      job: [digest('e')],
      model: ['red', 'blue', 'plain', 'auto', 'red*0.5+blue*0.5'],
      url: HOSTS,
      jwksUrl: ['https://login.test/jwks'],
      issuer: ['https://login.test/', 'login'],
      upstream: ['red-v1', 'blue-v1'],
      driver: ['sidepath', 'vllm', 'openai'],
      experiment: ['trial'],
      arm: ['a', 'b'],
      status: ['running', 'draft'],
      metric: ['helpful'],
      window: ['day'],
      receipt: [receipt, ...ran.map((row) => row.receipt)],
      request_id: ran.map((row) => row.request_id),
      key: keyIds,
      version: [1, 2],
    },
    byPattern: {
      '^[a-z0-9][a-z0-9._-]{0,63}$': EXISTING,
      '^[0-9a-f]{64}$': [BASE, digest('1'), digest('2'), digest('9')],
      '^[0-9A-Za-z]{16}$': keyIds,
      '^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$': ['red', 'blue', 'plain'],
    },
  }
}

const TWO = { url: 'http://two.test', base: BASE, driver: 'vllm', baseModel: 'tiny' }
const arms = [
  { id: 'a', weight: 5_000, adapter: 'red' },
  { id: 'b', weight: 5_000, adapter: 'blue' },
]
const chat = { model: 'red', messages: [{ role: 'user', content: 'hi' }] }
const wide = { scope: { kind: 'tenant' }, metric: 'requests', window: 'day', amount: 1_000_000 }
const price = { resource: { kind: 'adapter', id: 'red' }, promptPrice: 1, completionPrice: 2 }
const files = { 'adapter_config.json': digest('6'), 'adapter_model.safetensors': digest('7') }
/** Bodies that are right by rules between fields, or by what is in the registry. */
const SEEDS: Readonly<Record<string, readonly Json[]>> = {
  'POST /v1/chat/completions': [chat, { ...chat, stream: true, stream_options: { include_usage: true } }],
  'POST /v1/completions': [
    { model: 'red', prompt: 'hi' },
    { model: 'auto', prompt: ['a', 'b'], n: 2, stream: true },
    { model: 'red*0.5+blue*0.5', prompt: [1, 2], max_tokens: 0, echo: true, logprobs: 1 },
  ],
  'POST /v1/embeddings': [{ model: 'blue', input: ['a', 'b'] }],
  'PUT /admin/tenants/{tenant}/users/{user}': [{ roles: ['staff'], groups: ['hr'] }],
  'PUT /admin/backends/{backend}': [
    { url: 'http://one.test', base: BASE },
    { url: 'http://two.test', base: BASE, driver: 'vllm', baseModel: 'tiny', mayLoad: true },
  ],
  'PUT /admin/backends/{backend}/adapters/{digest}': [{ upstream: 'red-v1' }],
  'POST /admin/tenants/{tenant}/compiles': [
    {
      name: 'm',
      target: 'merged',
      base: { files: { 'config.json': digest('c') } },
      adapters: [{ adapter: 'red', files }],
    },
  ],
  'PUT /admin/tenants/{tenant}/adapters/{adapter}': [
    { name: 'red', version: 1, digest: digest('1'), base: BASE, tags: ['x'] },
    { name: 'blue', version: 1, digest: digest('2'), base: BASE },
  ],
  'PUT /admin/tenants/{tenant}/grants/{grant}': [
    { effect: 'allow', principal: toTenant, resource: adapter('red') },
    { effect: 'allow', principal: { kind: 'role', id: 'staff' }, resource: base, startsAt: 1, endsAt: 2 },
  ],
  'PUT /admin/tenants/{tenant}/experiments/{experiment}': [
    { arms },
    { arms, guardrails: [{ metric: 'error', margin: 0.1 }], namespace: { id: 'n', start: 0, end: 10 }, seed: 's' },
  ],
  'PATCH /admin/tenants/{tenant}/experiments/{experiment}': [
    { status: 'running', coverage: 10_000 },
    { weights: { a: 4_000, b: 6_000 } },
  ],
  'POST /admin/tenants/{tenant}/experiments/{experiment}/promote': [{ arm: 'b' }],
  'PUT /admin/tenants/{tenant}/limits/{limit}': [wide, { ...wide, scope: { kind: 'each-user' }, metric: 'cost' }],
  'PUT /admin/tenants/{tenant}/prices/{price}': [price],
}

beforeAll(async () => {
  house = await createHouse({ fetch: answerForFuzz, bindings: unguarded })
  await seed(house)
  await house.admin('PUT', '/tenants/acme/groups/hr', {})
  await house.admin('PUT', '/tenants/acme/experiments/trial', { arms })
  await house.admin('PUT', '/tenants/acme/metrics/helpful', {})
})
beforeEach(async () => {
  if (changed) await restore()
  changed = false
})
afterAll(() => {
  const rows = [...tally].sort(([a], [b]) => a - b).map(([status, count]) => `${status}: ${count}`)
  // biome-ignore lint/suspicious/noConsole: the figures of a long run.
  if (env.FUZZ.times > 1) console.warn(`answers by status: ${rows.join(', ')}`)
})

interface Sent {
  readonly path: string
  readonly query: readonly (readonly [string, string])[]
  readonly headers: Readonly<Record<string, string>>
  readonly as: number
  readonly body: Body | null
}

function sentOf({ method, path, operation, document }: Named): fc.Arbitrary<Sent> {
  const parameters = operation.parameters ?? []
  const of = (where: string) => parameters.filter((parameter) => parameter.in === where)
  const segments = path.split('/').map((part) => {
    const name = /^\{(\w+)\}$/.exec(part)?.[1]
    const schema = of('path').find((parameter) => parameter.name === name)?.schema
    return name === undefined || schema === undefined ? fc.constant(part) : segmentOf(schema, known, name)
  })
  const asked = of('query').map(({ name, schema = {}, required = false }) =>
    fc.tuple(
      fc.constant(name),
      fc.array(queryOf(schema, known, name), { minLength: required ? 1 : 0, maxLength: required ? 1 : 2 }),
    ),
  )
  const odd = fc.array(fc.tuple(fc.constantFrom('model', 'x', 'limit', 'before'), fc.string()), { maxLength: 1 })
  const queried = fc
    .tuple(fc.tuple(...asked), odd)
    .map(([named, rest]) => [
      ...named.flatMap(([name, values]) => values.map((value) => [name, value] as const)),
      ...rest,
    ])
  const headed = fc.record(
    Object.fromEntries([
      ...of('header').map(({ name, schema = {} }) => [name, headerOf(schema, known, name)]),
      ['x-forwarded-host', fc.constant('evil')],
      ['accept', fc.constantFrom('text/html', 'nonsense', '*/*;q=0')],
    ]),
    { requiredKeys: [] },
  ) as fc.Arbitrary<Record<string, string>>
  const schema = operation.requestBody?.content['application/json']?.schema
  return fc.record({
    path: fc.tuple(...segments).map((parts) => parts.join('/')),
    query: queried,
    headers: headed,
    as: fc.nat(),
    body:
      schema === undefined
        ? fc.constant(null)
        : bodyOf(schema, document.components?.schemas ?? {}, known, SEEDS[`${method} ${path}`] ?? []),
  })
}

async function send({ method, path }: Named, { path: filled, query, headers, as, body }: Sent) {
  const who = path.startsWith('/admin/') ? callers.admin : callers.user
  const key = who[as % who.length]
  const url = new URL(`http://gateway.test${filled}`)
  for (const [name, value] of query) url.searchParams.append(name, value)
  const { response, finish } = await house.open(
    url.href,
    {
      method,
      headers: {
        ...headers,
        ...(key == null ? {} : { authorization: `Bearer ${key}` }),
        ...(body?.type == null ? {} : { 'content-type': body.type }),
      },
      ...(body === null ? {} : { body: body.bytes }),
    },
    bindings,
  )
  const text = await response.text()
  await finish()
  return { response, text }
}

const validators = new WeakMap<Schema, Validator>()
function validatorOf(schema: Schema, { components }: OpenApi): Validator {
  const known = validators.get(schema)
  if (known !== undefined) return known
  const made = new Validator({ ...schema, components } as never, '2020-12')
  validators.set(schema, made)
  return made
}

async function check(named: Named, sent: Sent): Promise<number> {
  const { method, path, operation, document } = named
  const { response, text } = await send(named, sent)
  const { status, headers } = response
  tally.set(status, (tally.get(status) ?? 0) + 1)
  const declared = operation.responses[status]
  expect(Object.keys(operation.responses), `${status} ${text.slice(0, 300)}`).toContain(String(status))
  const type = headers.get('content-type')?.split(';')[0] ?? ''
  expect(Object.keys(declared?.content ?? {})).toContain(type)
  const schema = declared?.content?.[type]?.schema
  if (type === 'application/json') {
    const value: unknown = JSON.parse(text)
    const { valid, errors } = validatorOf(schema ?? {}, document).validate(value)
    expect(valid, `${status} ${text.slice(0, 600)} ${JSON.stringify(errors.at(-1))}`).toBe(true)
    if (status >= 500) {
      const code = (value as { error?: { code: string } }).error?.code ?? ''
      expect(`${method} ${path}`, text).toMatch(BROKEN[code] ?? /^GET \/healthz$/)
    }
  }
  expect(headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/)
  // The reference itself says how things are called.
  if (!path.endsWith('/docs') && !path.endsWith('/openapi.json')) expect(text).not.toMatch(INSIDE)
  for (const [name, value] of headers) expect(`${name}: ${value}`).not.toMatch(INSIDE)
  return status
}

/** What can be asked for rightly and never be done, in a world of stand-ins. */
const NEVER = new Set(['GET /healthz', 'GET /admin/receipts/{receipt}'])

describe('the check', () => {
  const rightful: Sent = { path: '/v1/models', query: [], headers: {}, as: 0, body: null }
  const models = operations.find(({ method, path }) => `${method} ${path}` === 'GET /v1/models')
  const answering = (responses: Operation['responses']): Named => {
    if (models === undefined) throw new Error('no such operation')
    return { ...models, operation: { ...models.operation, responses } }
  }
  const json = (schema: Schema) => ({ description: '', content: { 'application/json': { schema } } })

  it('passes what is declared', async () => {
    expect(await check(answering({ 200: json({ type: 'object', required: ['data'] }) }), rightful)).toBe(200)
  })

  it.each<[string, Operation['responses']]>([
    ['a status', { 201: json({}) }],
    ['a content type', { 200: { description: '', content: { 'text/html': {} } } }],
    ['a field', { 200: json({ type: 'object', properties: { object: {} }, additionalProperties: false }) }],
    ['a field that must be there', { 200: json({ type: 'object', required: ['none'] }) }],
  ])('fails where %s is not as declared', async (_, responses) => {
    await expect(check(answering(responses), rightful)).rejects.toThrow()
  })

  it.each([
    'Error: x\n    at answer (file:///srv/gateway/app.ts:12:3)',
    'D1_ERROR: UNIQUE constraint failed: keys.id',
    'Failed query: select "id" from "keys"; SELECT "id" FROM "keys" WHERE 1',
    'insert: INSERT INTO usage (request_id)',
    'ENOENT: /home/node/.sidepath/gateway.db',
    'connect ECONNREFUSED internal-host-7',
  ])('takes %j for what is inside', (said) => {
    expect(said).toMatch(INSIDE)
  })
})

describe('inference, where the backend is broken', () => {
  const inference = operations.filter(({ method, path }) => UPSTREAM.test(`${method} ${path}`))
  it.each(
    ['http://dead.test', 'http://odd.test'].flatMap((url) =>
      inference.map((named) => [`${named.path} at ${url}`, url, named] as const),
    ),
  )(
    '%s: a declared 5xx, and nothing of what it said',
    async (_, url, named) => {
      await restore()
      changed = true
      await house.admin('PUT', '/backends/one', { url, base: BASE })
      await house.admin('PUT', '/backends/two', { ...TWO, url, prefix: '/x', draining: true })
      const seen = new Set<number>()
      const property = fc.asyncProperty(sentOf(named), async (sent) => void seen.add(await check(named, sent)))
      await fc.assert(property, { seed: env.FUZZ.seed, numRuns: (RUNS / 2) * env.FUZZ.times })
      const codes = [...seen].sort()
      expect(
        codes.some((status) => status === 502 || status === 503),
        `only ${codes}`,
      ).toBe(true)
      expect(codes).not.toContain(200)
    },
    30_000 * env.FUZZ.times,
  )
})

describe('every operation', () => {
  it.each(operations.map((named) => [`${named.method} ${named.path}`, named] as const))(
    '%s answers as declared to whatever is sent',
    async (name, named) => {
      const seen = new Set<number>()
      changed = named.method !== 'GET'
      const property = fc.asyncProperty(sentOf(named), async (sent) => void seen.add(await check(named, sent)))
      await fc.assert(property, {
        seed: env.FUZZ.seed,
        numRuns: RUNS * env.FUZZ.times,
        endOnFailure: env.FUZZ.times > 1,
      })
      // Else it was fuzzed no further than to the guard or the parser; a few requests may all miss by chance.
      const enough = (status: number) => status < 300 || (status === 404 && env.FUZZ.times < 4)
      const succeeded = [...seen].some(enough)
      expect(NEVER.has(name) || succeeded, `only ${[...seen]}`).toBe(true)
    },
    30_000 * env.FUZZ.times,
  )
})
