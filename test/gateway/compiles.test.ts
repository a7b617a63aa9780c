// Merges through the compiler service: what is asked for, what is believed of the answer, and that nobody is granted it.
import { env } from 'cloudflare:workers'
import { beforeEach, describe, expect, it } from 'vitest'
import { canonicalJson } from '../../compiler/canonical-json.ts'
import { type Manifest, ManifestSchema } from '../../compiler/contract.ts'
import { sha256 } from '../../gateway/digest.ts'
import { type Job, paths, Recipe } from '../../jobs/contract.ts'
import { adapter, allow, BASE, createHouse, deny, digest, type House, NOW, seed, toTenant } from './house.ts'

const COMPILER = 'http://compiler.test'
const TOKEN = 'token-of-the-compiler-0123456789abcdef'
const bindings = { ...env, COMPILER_URL: COMPILER, COMPILER_TOKEN: TOKEN }
const JOB = digest('e')
const ROUTE = '/admin/tenants/acme/compiles'
const files = { 'adapter_config.json': digest('6'), 'adapter_model.safetensors': digest('7') }
const asked = {
  name: 'red-and-blue',
  target: 'merged',
  base: { files: { 'config.json': digest('8'), 'model.safetensors': digest('9') } },
  adapters: [
    { adapter: 'red', weight: 0.5, files },
    { adapter: 'blue', files },
  ],
}

const manifestOf = (
  merged: readonly [digest: string, weight: number, unweighted?: string][],
  base = BASE,
  target: Manifest['target'] = 'merged',
): Manifest =>
  ManifestSchema.parse({
    schema: 'sidepath.artifact/1',
    target,
    base: {
      digest: base,
      architecture: {
        family: 'llama',
        hiddenSize: 8,
        intermediateSize: 8,
        layers: 1,
        heads: 1,
        kvHeads: 1,
        headDim: 8,
        vocabSize: 8,
        maxPositions: 8,
      },
      eosTokenIds: [2],
    },
    opset: 22,
    dtype: 'float32',
    adapters: merged.map(([digest, weight, unweighted], i) => ({
      name: `n${i}`,
      digest,
      ...(unweighted && { unweighted }),
      r: 1,
      loraAlpha: 1,
      useRslora: false,
      weight,
      modules: {},
    })),
    bank: [],
    graphs: { model: 'model.onnx', engine: 'engine.onnx' },
    coverage: [],
    files: [],
  })

/** The compiler service as a function: one job, whose state and artifact the test sets. */
function fakeCompiler(house: House) {
  const seen: { method: string; path: string; body: unknown; authorization: string | null }[] = []
  const state = { job: {} as Partial<Job>, manifest: '', answer: undefined as Response | undefined }
  house.world.fetch = async (url, init) => {
    const { origin, pathname } = new URL(url)
    expect(origin).toBe(COMPILER)
    const body = init.body === undefined ? undefined : Recipe.parse(JSON.parse(String(init.body)))
    const authorization = new Headers(init.headers).get('authorization')
    seen.push({ method: String(init.method), path: pathname, body, authorization })
    if (state.answer) return state.answer.clone()
    if (pathname.startsWith('/v1/artifacts/')) return new Response(state.manifest)
    const recipe = body ?? { target: 'merged', base: asked.base.files, adapters: [] }
    const times = { queuedAt: NOW, startedAt: null, endedAt: null }
    const rest = { progress: null, artifact: null, failure: null, recipe, target: 'merged' }
    return Response.json({ id: JOB, state: 'queued', ...times, ...rest, ...state.job })
  }
  return {
    seen,
    state,
    async finish(manifest: Manifest): Promise<string> {
      state.manifest = canonicalJson(manifest)
      const artifact = await sha256(state.manifest)
      state.job = { state: 'done', artifact }
      return artifact
    },
  }
}

let house: House
let compiler: ReturnType<typeof fakeCompiler>
const call = (method: string, path: string, body?: unknown, using: object = bindings) =>
  house.call(method, path, house.adminKey, body, using)
const codeOf = async (body: unknown) => {
  const { status, json } = await call('POST', ROUTE, body)
  return [status, json.error?.code]
}

beforeEach(async () => {
  await env.DB.prepare('DELETE FROM compiles').run()
  house = await createHouse()
  await seed(house)
  compiler = fakeCompiler(house)
})

describe('asking for a merge', () => {
  it('sends the recipe with the names of the registry and the token of the operator', async () => {
    const reply = await call('POST', ROUTE, asked)
    expect([reply.status, reply.json]).toEqual([
      202,
      expect.objectContaining({ job: JOB, state: 'queued', status: 'open', artifact: null, grants: [] }),
    ])
    expect(compiler.seen).toEqual([
      {
        method: 'POST',
        path: paths.jobs,
        authorization: `Bearer ${TOKEN}`,
        body: {
          target: 'merged',
          base: asked.base.files,
          adapters: [
            { name: 'red', weight: 0.5, files },
            { name: 'blue', weight: 1, files },
          ],
        },
      },
    ])
    expect((await call('POST', ROUTE, asked)).status).toBe(200)
    expect(reply.text + house.logged().join()).not.toContain(TOKEN)
  })

  it('needs adapters of the tenant, in use, of one base, with names of their own', async () => {
    const one = (id: string) => ({ ...asked, adapters: [{ adapter: id, files }] })
    await house.admin('PUT', '/tenants/acme/adapters/off', {
      name: 'off',
      version: 1,
      digest: digest('5'),
      base: BASE,
      disabled: true,
    })
    await house.admin('PUT', '/tenants/acme/adapters/red2', {
      name: 'red',
      version: 2,
      digest: digest('4'),
      base: BASE,
    })
    await house.admin('PUT', `/bases/${digest('c')}`, {})
    await house.admin('PUT', '/tenants/acme/adapters/far', {
      name: 'far',
      version: 1,
      digest: digest('3'),
      base: digest('c'),
    })
    await house.admin('PUT', '/tenants/zeta/adapters/theirs', {
      name: 'theirs',
      version: 1,
      digest: digest('2'),
      base: BASE,
    })
    const pair = (id: string) => ({ ...asked, adapters: [asked.adapters[0], { adapter: id, files }] })
    expect(await codeOf(one('nothing'))).toEqual([400, 'unknown_reference'])
    expect(await codeOf(one('theirs'))).toEqual([400, 'unknown_reference'])
    expect(await codeOf(one('off'))).toEqual([400, 'unknown_reference'])
    expect(await codeOf(pair('far'))).toEqual([400, 'invalid_value'])
    expect(await codeOf(pair('red2'))).toEqual([400, 'invalid_value'])
    expect(await codeOf(pair('red'))).toEqual([400, 'invalid_value'])
    expect(await codeOf({ ...asked, adapters: [] })).toEqual([400, 'invalid_value'])
    expect(await codeOf({ ...asked, target: 'routed' })).toEqual([400, 'invalid_value'])
    expect(await codeOf({ ...asked, url: 'http://x.test' })).toEqual([400, 'unknown_parameter'])
    expect(await codeOf({ ...asked, base: { files: { '../x': digest('8') } } })).toEqual([400, 'invalid_value'])
    expect(compiler.seen).toEqual([])
  })

  it('without a compiler is refused by name; half of its configuration stops the gateway', async () => {
    const none = await call('POST', ROUTE, asked, env)
    expect([none.status, none.json.error.code]).toEqual([503, 'compiler_not_configured'])
    for (const wrong of [
      { COMPILER_URL: COMPILER },
      { COMPILER_TOKEN: TOKEN },
      { COMPILER_URL: `${COMPILER}/path`, COMPILER_TOKEN: TOKEN },
      { COMPILER_URL: 'file:///etc', COMPILER_TOKEN: TOKEN },
      { COMPILER_URL: COMPILER, COMPILER_TOKEN: 'short' },
    ]) {
      const reply = await call('GET', '/admin/tenants', undefined, { ...env, ...wrong })
      expect([reply.status, reply.json.error.code]).toEqual([503, 'gateway_misconfigured'])
    }
  })

  it.each([
    [
      Response.json({ error: { message: 'upload these first', code: 'blob_missing' } }, { status: 400 }),
      400,
      'blob_missing',
    ],
    [
      Response.json({ error: { message: 'internal-host', code: 'token_invalid' } }, { status: 401 }),
      502,
      'compiler_failed',
    ],
    [new Response('internal-host', { status: 500 }), 502, 'compiler_failed'],
    [new Response(null, { status: 302, headers: { location: 'http://evil.test' } }), 502, 'compiler_failed'],
    [new Response('not json'), 502, 'compiler_failed'],
    [new Response('x'.repeat(9 << 20)), 502, 'compiler_failed'],
    [new Response(null, { status: 429 }), 429, 'compiler_busy'],
  ])('passes on what blames the recipe and nothing else (%#)', async (answer, status, code) => {
    compiler.state.answer = answer
    const reply = await call('POST', ROUTE, asked)
    expect([reply.status, reply.json.error.code]).toEqual([status, code])
    expect(reply.text).not.toContain('internal-host')
    expect((await call('GET', `${ROUTE}/${JOB}`)).status).toBe(404)
  })
})

describe('the end of a stack', () => {
  // The weight is in the file of a stack, which therefore has another digest than the adapter of the registry.
  const stacked = (red: string) =>
    manifestOf(
      [
        [digest('2'), 1],
        [digest('d'), 0.5, red],
      ],
      BASE,
      'stacked',
    )
  beforeEach(async () => void (await call('POST', ROUTE, { ...asked, target: 'stacked' })))

  it('registers the result as a base with its parents', async () => {
    expect(compiler.seen[0]?.body).toMatchObject({ target: 'stacked' })
    const artifact = await compiler.finish(stacked(digest('1')))
    expect((await call('GET', `${ROUTE}/${JOB}`)).json).toMatchObject({ status: 'done', target: 'stacked', artifact })
    expect((await call('GET', '/admin/bases')).json.data).toContainEqual(expect.objectContaining({ digest: artifact }))
  })

  it.each([
    ['another adapter', stacked(digest('3'))],
    [
      'a merge',
      manifestOf([
        [digest('2'), 1],
        [digest('1'), 0.5],
      ]),
    ],
  ])('registers nothing that is made of %s', async (_, manifest) => {
    await compiler.finish(manifest)
    expect((await call('GET', `${ROUTE}/${JOB}`)).json).toMatchObject({ status: 'mismatch', artifact: null })
  })
})

describe('the end of a merge', () => {
  const parents: [string, number][] = [
    [digest('2'), 1],
    [digest('1'), 0.5],
  ]
  beforeEach(async () => void (await call('POST', ROUTE, asked)))

  it('registers the result as a base with its parents, granted to nobody', async () => {
    expect((await call('GET', `${ROUTE}/${JOB}`)).json).toMatchObject({ state: 'queued', status: 'open' })
    await house.admin('PUT', '/tenants/acme/grants/both', allow(toTenant, adapter('red')))
    const artifact = await compiler.finish(manifestOf(parents))
    const before = compiler.seen.length
    const { json } = await call('GET', `${ROUTE}/${JOB}`)
    expect(json).toMatchObject({ state: 'done', status: 'done', artifact, baseDigest: BASE, grants: [] })
    expect(json).toHaveProperty('parents', [
      { adapter: 'red', name: 'red', digest: digest('1'), weight: 0.5 },
      { adapter: 'blue', name: 'blue', digest: digest('2'), weight: 1 },
    ])
    expect((await call('GET', '/admin/bases')).json.data).toContainEqual(expect.objectContaining({ digest: artifact }))
    await house.admin('PUT', '/tenants/acme/models/merged', { base: artifact })
    const key = (await house.mint('acme', { user: 'ada' })).key
    expect(await house.models(key)).not.toContain('merged')

    await house.admin('PUT', '/tenants/acme/grants/merged', allow(toTenant, { kind: 'base', digest: artifact }))
    // The other parent is not granted yet.
    expect(await house.models(key)).not.toContain('merged')
    expect((await call('GET', `${ROUTE}/${JOB}`)).json).toMatchObject({ status: 'done', grants: ['merged'] })
    // Two requests of the first reading; a settled compile is not asked for again.
    expect(compiler.seen.length).toBe(before + 2)
    const actions = (await call('GET', '/admin/audit')).json.data.map(({ action }) => action)
    expect(actions).toEqual(expect.arrayContaining(['compile.post', 'compile.settle']))
  })

  it.each([
    ['another adapter', manifestOf([parents[0]!, [digest('3'), 0.5]])],
    ['another weight', manifestOf([parents[0]!, [digest('1'), 0.7]])],
    ['one adapter less', manifestOf([parents[0]!])],
    ['another base', manifestOf(parents, digest('c'))],
  ])('registers nothing that is made of %s', async (_, manifest) => {
    const artifact = await compiler.finish(manifest)
    const { json } = await call('GET', `${ROUTE}/${JOB}`)
    expect(json).toMatchObject({ status: 'mismatch', artifact: null })
    const { text } = await call('GET', '/admin/bases')
    expect(text).not.toContain(artifact)
  })

  it('does not believe a manifest that is not what its id says', async () => {
    await compiler.finish(manifestOf(parents))
    compiler.state.manifest += ' '
    const reply = await call('GET', `${ROUTE}/${JOB}`)
    expect([reply.status, reply.json.error.code]).toEqual([502, 'compiler_failed'])
  })

  it('tells the problems of a failed job, and belongs to its tenant', async () => {
    const failure = {
      code: 'input_invalid' as const,
      message: 'the input is refused; see problems',
      problems: [{ code: 'adapter-pair', message: 'adapter "red": …' }],
    }
    compiler.state.job = { state: 'failed', failure }
    expect((await call('GET', `${ROUTE}/${JOB}`)).json).toMatchObject({ state: 'failed', status: 'open', failure })
    expect((await call('GET', `/admin/tenants/zeta/compiles/${JOB}`)).status).toBe(404)
  })
})

describe('who may use a merge', () => {
  const parents: [string, number][] = [
    [digest('2'), 1],
    [digest('1'), 0.5],
  ]
  const grant = (id: string, body: object, tenant = 'acme') =>
    house.admin('PUT', `/tenants/${tenant}/grants/${id}`, body)
  const drop = (id: string) => house.admin('DELETE', `/tenants/acme/grants/${id}`)
  const ofBase = (digest: string) => ({ kind: 'base', digest })
  let artifact: string
  let ada: { id: string; key: string }

  beforeEach(async () => {
    await env.DB.prepare('DELETE FROM grants').run()
    await call('POST', ROUTE, asked)
    artifact = await compiler.finish(manifestOf(parents))
    await call('GET', `${ROUTE}/${JOB}`)
    await house.admin('PUT', '/tenants/acme/models/merged', { base: artifact })
    await house.admin('PUT', '/backends/merged', { url: 'http://merged.test', base: artifact })
    ada = await house.mint('acme', { user: 'ada' })
    await grant('merged', allow(toTenant, ofBase(artifact)))
    house.world.fetch = house.backend.fetch
  })

  const statusOf = async (model = 'merged') => (await house.ask(ada.key, model)).status
  const explained = async (model = 'merged') =>
    (await house.admin('POST', '/explain', { key: ada.id, model })).json.targets[0].decision

  it('is who may use it and each of its parents, with the refusal of a model that does not exist', async () => {
    const unknown = (await house.ask(ada.key, 'nothing')).text
    expect(await explained()).toEqual({ allowed: false, reason: 'not-granted', parent: 'blue' })
    await grant('blue', allow(toTenant, adapter('blue')))
    expect(await explained()).toEqual({ allowed: false, reason: 'not-granted', parent: 'red' })
    expect((await house.ask(ada.key, 'merged')).text).toBe(unknown)
    await grant('red', allow(toTenant, adapter('red')))
    expect([await statusOf(), await house.models(ada.key)]).toEqual([200, ['blue', 'merged', 'red']])
    expect(house.backend.seen.at(-1)!.claims).toMatchObject({ base: artifact, adapter: null })

    await grant('no', deny({ kind: 'user', id: 'ada' }, adapter('red')))
    expect(await explained()).toEqual({ allowed: false, reason: 'denied', grantId: 'no', parent: 'red' })
    const refused = await house.ask(ada.key, 'merged')
    expect([refused.status, refused.text, await house.models(ada.key)]).toEqual([404, unknown, ['blue']])
    await drop('no')
    expect(await statusOf()).toBe(200)

    // A deny of the base that the parents run on denies the parents, and so the merge.
    await grant('no', deny(toTenant, ofBase(BASE)))
    expect(await explained()).toMatchObject({ reason: 'denied', parent: 'blue' })
    await drop('no')
    await drop('merged')
    expect(await explained()).toEqual({ allowed: false, reason: 'not-granted' })
  })

  it('reaches through a merge of a merge, and adapters on one', async () => {
    await house.admin('PUT', '/tenants/acme/adapters/late', {
      name: 'late',
      version: 1,
      digest: digest('3'),
      base: artifact,
    })
    await house.admin('PUT', '/tenants/acme/models/late', { adapter: 'late' })
    const nested = digest('d')
    await house.admin('PUT', `/bases/${nested}`, {})
    const parent = { adapter: 'late', name: 'late', digest: digest('3'), weight: 1 }
    await env.DB.prepare("INSERT INTO compiles VALUES ('acme', ?, 'again', 'merged', ?, ?, 'done', ?, 0, 0)")
      .bind(digest('f'), artifact, JSON.stringify([parent]), nested)
      .run()
    await house.admin('PUT', '/tenants/acme/models/nested', { base: nested })
    await house.admin('PUT', '/backends/nested', { url: 'http://nested.test', base: nested })
    await grant('nested', allow(toTenant, ofBase(nested)))
    await grant('late', allow(toTenant, adapter('late')))
    await grant('blue', allow(toTenant, adapter('blue')))
    for (const model of ['late', 'nested']) {
      expect([model, await statusOf(model), await explained(model)]).toEqual([
        model,
        404,
        { allowed: false, reason: 'not-granted', parent: 'red' },
      ])
    }
    await grant('red', allow(toTenant, adapter('red')))
    expect([await statusOf('late'), await statusOf('nested')]).toEqual([200, 200])
    await house.admin('PUT', '/tenants/acme/adapters/red', {
      name: 'red',
      version: 1,
      digest: digest('1'),
      base: BASE,
      disabled: true,
    })
    expect(await explained('nested')).toEqual({ allowed: false, reason: 'disabled', parent: 'red' })
    await house.admin('PUT', '/tenants/acme/adapters/red', { name: 'red', version: 1, digest: digest('1'), base: BASE })
  })

  it('is nobody of a tenant that did not make it itself', async () => {
    await house.admin('PUT', '/tenants/zeta/models/theirs', { base: artifact })
    await grant('theirs', allow(toTenant, ofBase(artifact)), 'zeta')
    for (const id of ['red', 'blue']) await grant(id, allow(toTenant, adapter(id)), 'zeta')
    const zed = await house.mint('zeta')
    expect((await house.ask(zed.key, 'theirs')).status).toBe(404)
    const { targets } = (await house.admin('POST', '/explain', { key: zed.id, model: 'theirs' })).json
    expect(targets[0].decision).toEqual({ allowed: false, reason: 'other-tenant', parent: 'blue' })
  })
})
