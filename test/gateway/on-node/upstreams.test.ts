// Foreign backends behind the gateway, each a real HTTP server that checks what it gets: names, credentials, salts, limits;
// what comes back; adapters that are not served until a probe has seen them; and every way to fail.
import { afterEach, beforeAll, describe, expect, it } from 'vitest'
import { adapter, allow, BASE, base, createHouse, digest, type House, seed, toTenant } from '../house.ts'
import { BASE_NAME, KINDS, type KindName, type StandIn, standIn } from './stand-ins.ts'

const KEY = 'upstream-key-0123456789'
const NAMES = Object.keys(KINDS) as KindName[]
const RED = digest('1')
const PREFIX = '/client/v4/accounts/acc'

const open: StandIn[] = []
/** Enabled by the test that runs, in any house. */
const rows = new Map<string, { readonly house: House; readonly row: object }>()
afterEach(async () => {
  for (const [id, { house, row }] of rows) await house.admin('PUT', `/backends/${id}`, { ...row, enabled: false })
  rows.clear()
  for (const server of open.splice(0)) await server.close()
})

async function start(kind: KindName, key?: string): Promise<StandIn> {
  const server = await standIn(kind, key)
  open.push(server)
  return server
}

const nameOf = (kind: KindName) => (kind === 'llama-cpp' ? '1' : 'red-v1')
const baseOf = (kind: KindName) => (kind === 'workers-ai' ? `@cf/${BASE_NAME}` : kind === 'lorax' ? '' : BASE_NAME)
const rowOf = (kind: KindName, server: StandIn, more: object = {}) => ({
  url: server.url,
  base: BASE,
  driver: kind,
  baseModel: baseOf(kind),
  ...(kind === 'workers-ai' ? { prefix: PREFIX } : {}),
  ...more,
})

interface Setting {
  readonly house: House
  readonly key: string
  readonly row: (id: string, kind: KindName, server: StandIn, more?: object) => Promise<void>
  readonly name: (id: string, kind: KindName, more?: object) => Promise<unknown>
  readonly probe: (id: string, body?: object) => Promise<Record<string, unknown>>
}

async function settle(timeouts: object = {}): Promise<Setting> {
  const house = await createHouse({
    fetch: (url, init) => fetch(url, init),
    bindings: { UPSTREAM_KEY: KEY },
    timeouts: { connectMs: 100, firstByteMs: 400, idleMs: 200, wholeAnswerMs: 400, readinessMs: 100, ...timeouts },
  })
  await seed(house)
  await house.admin('PUT', '/backends/one', { url: 'http://one.test', base: BASE, enabled: false })
  await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
  await house.admin('PUT', '/tenants/acme/grants/blue', allow(toTenant, adapter('blue')))
  await house.admin('PUT', '/tenants/acme/grants/base', allow(toTenant, base))
  await house.admin('PUT', '/tenants/zeta/grants/base', allow(toTenant, base))
  return {
    house,
    key: (await house.mint('acme')).key,
    async row(id, kind, server, more) {
      const row = rowOf(kind, server, more)
      rows.set(id, { house, row })
      await house.admin('PUT', `/backends/${id}`, row)
    },
    name: async (id, kind, more = {}) =>
      (await house.admin('PUT', `/backends/${id}/adapters/${RED}`, { upstream: nameOf(kind), ...more })).json,
    probe: async (id, body = {}) =>
      (await house.admin('POST', `/backends/${id}/adapters/${RED}/probe`, body)).json as unknown as Record<
        string,
        unknown
      >,
  }
}

const chat = (house: House, key: string, model: string, more: object = {}) =>
  house.call('POST', '/v1/chat/completions', key, { model, messages: [{ role: 'user', content: 'hi' }], ...more })

let setting: Setting
beforeAll(async () => {
  setting = await settle()
})

describe.each(NAMES)('a backend of the kind %s', (kind) => {
  const ran = kind === 'llama-cpp' ? '1@1' : 'red-v1'

  it('serves an adapter that a probe has seen, and the base, under public names alone', async () => {
    const { house, key, row, name, probe } = setting
    const server = await start(kind, KEY)
    await row(`${kind}-a`, kind, server, { secret: 'UPSTREAM_KEY' })
    await name(`${kind}-a`, kind)
    expect((await house.ask(key, 'red')).status).toBe(503)
    expect(await probe(`${kind}-a`)).toMatchObject({ status: 'active', reason: null })
    server.seen.length = 0
    for (const [reply, said] of [
      [await house.ask(key, 'red'), `${ran} says hello`],
      [await house.ask(key, 'plain'), 'base says hello'],
      [await chat(house, key, 'red'), `${ran} says hello`],
    ] as const) {
      expect(reply.status).toBe(200)
      const choice = reply.json.choices[0] as { text?: string; message?: { content: string } }
      expect(choice.text ?? choice.message?.content).toBe(said)
      expect(['red', 'plain']).toContain((reply.json as unknown as { model: string }).model)
      expect(reply.json.id).toContain(String(reply.headers.get('x-request-id')))
      expect(reply.text + JSON.stringify([...reply.headers])).not.toMatch(
        /internal-host|Tiny-1B|cached_tokens|"timings"/,
      )
      expect(reply.json).toMatchObject({ usage: { prompt_tokens: 7, completion_tokens: 2, total_tokens: 9 } })
    }
    for (const { authorization, headers, body } of server.seen) {
      expect(authorization).toBe(`Bearer ${KEY}`)
      expect(JSON.stringify(headers)).not.toContain(key)
      // The tenant's bound, since a foreign backend knows of none.
      expect(body.max_tokens).toBe(64)
    }
  })

  it('streams the same way, metered, with a last chunk of usage only where it was asked for', async () => {
    const { house, key, row, name, probe } = setting
    const server = await start(kind)
    await row(`${kind}-b`, kind, server)
    await name(`${kind}-b`, kind)
    await probe(`${kind}-b`)
    for (const ask of [house.ask, (k: string, m: string, more: object) => chat(house, k, m, more)]) {
      for (const include_usage of [false, true]) {
        const reply = await ask(key, 'red', { stream: true, stream_options: { include_usage } })
        expect(reply.status).toBe(200)
        expect(reply.text).not.toMatch(/internal-host|Tiny-1B|cached_tokens|padding/)
        const events = reply.text.split('\n\n').filter(Boolean)
        expect(events.at(-1)).toBe('data: [DONE]')
        const chunks = events.slice(0, -1).map((event) => JSON.parse(event.slice('data: '.length)))
        expect(new Set(chunks.map((chunk) => chunk.model))).toEqual(new Set(['red']))
        const said = chunks.flatMap((chunk) => chunk.choices).map((choice) => choice.text ?? choice.delta.content ?? '')
        expect(said.join('')).toBe(`${ran} says hello!`)
        expect(chunks.flatMap((chunk) => chunk.choices).at(-1).finish_reason).toBe('stop')
        expect(chunks.filter((chunk) => chunk.choices.length === 0)).toHaveLength(include_usage ? 1 : 0)
        expect(chunks.at(-1).usage).toMatchObject({ prompt_tokens: 7, completion_tokens: 2 })
        const rows = (await house.admin('GET', '/tenants/acme/usage')).json.data
        expect(rows.find((each) => each.requestId === reply.headers.get('x-request-id'))).toMatchObject({
          status: 'settled',
          promptTokens: 7,
          completionTokens: 2,
        })
      }
    }
  })

  it('that serves the base under the adapter’s name is caught, and stays out of use', async () => {
    const { house, key, row, name, probe } = setting
    const server = await start(kind)
    await row(`${kind}-c`, kind, server)
    await name(`${kind}-c`, kind)
    server.order('serve-the-base')
    const verdict = await probe(`${kind}-c`)
    expect(verdict.status).toBe('refused')
    expect(verdict.reason).toContain('its answers are those of the base')
    server.seen.length = 0
    expect((await house.ask(key, 'red')).json.error.code).toBe('no_backend')
    expect(server.seen).toHaveLength(0)
    expect((await house.ask(key, 'plain')).status).toBe(200)
    server.order('serve')
    expect((await probe(`${kind}-c`)).status).toBe('active')
    expect((await house.ask(key, 'red')).status).toBe(200)
  })

  it.each(['reset-mid-stream', 'error-mid-stream', 'stall-mid-stream'] as const)(
    'that fails by %s ends in an error and no [DONE]',
    async (order) => {
      const { house, key, row } = setting
      const server = await start(kind)
      await row(`${kind}-d`, kind, server)
      server.order(order)
      const reply = await house.ask(key, 'plain', { stream: true })
      expect([reply.status, reply.text.includes('upstream_interrupted'), reply.text.includes('[DONE]')]).toEqual([
        200,
        true,
        false,
      ])
      expect(reply.text).not.toMatch(/internal-host|CUDA/)
    },
  )

  it('whose refusal is about the length of a prompt is passed on in meaning and not in words', async () => {
    const { house, key, row } = setting
    const server = await start(kind)
    await row(`${kind}-e`, kind, server)
    server.order('too-long')
    const reply = await house.ask(key, 'plain')
    expect([reply.status, reply.json.error.code]).toEqual([400, 'context_length_exceeded'])
    expect(reply.text).not.toContain('internal-host')
    server.order('not-json')
    expect((await house.ask(key, 'plain')).json.error.code).toBe('upstream_invalid')
  })
})

describe('what a foreign backend is told', () => {
  it('is a salt of the tenant, which no other tenant and no other backend has', async () => {
    const { house, key, row } = setting
    const zeta = (await house.mint('zeta')).key
    await house.admin('PUT', '/tenants/zeta/models/plain', { base: BASE })
    const salts: unknown[] = []
    for (const id of ['salt-a', 'salt-b']) {
      const server = await start('vllm')
      await row(id, 'vllm', server)
      for (const caller of [key, key, zeta]) await house.ask(caller, 'plain')
      await house.admin('PUT', `/backends/${id}`, rowOf('vllm', server, { enabled: false }))
      salts.push(...server.seen.map(({ body }) => body.cache_salt))
    }
    expect(salts).toHaveLength(6)
    expect([salts[0] === salts[1], salts[3] === salts[4], new Set(salts).size]).toEqual([true, true, 4])
    expect(salts.every((salt) => /^[0-9a-f]{64}$/.test(String(salt)))).toBe(true)
  })

  it('is the tenant’s bound on tokens, shared by the answers of one request', async () => {
    const { house, key, row } = setting
    const server = await start('vllm')
    await row('bound', 'vllm', server)
    for (const more of [{}, { max_tokens: 5 }, { max_tokens: 500 }, { n: 3 }]) await house.ask(key, 'plain', more)
    await chat(house, key, 'plain', { max_completion_tokens: 999 })
    expect(server.seen.map(({ body }) => body.max_tokens ?? body.max_completion_tokens)).toEqual([64, 5, 64, 21, 64])
    expect((await house.ask(key, 'plain', { n: 32, prompt: 'x' })).status).toBe(200)
    expect(server.seen.at(-1)?.body.max_tokens).toBe(2)
  })

  it('is a mix, where it runs mixes, and nothing of one where it does not', async () => {
    const { house, key, row, name, probe } = setting
    const llama = await start('llama-cpp')
    await row('mixes', 'llama-cpp', llama)
    await name('mixes', 'llama-cpp')
    await probe('mixes')
    await house.admin('PUT', `/backends/mixes/adapters/${digest('2')}`, { upstream: '0' })
    expect((await house.ask(key, 'red*0.5+blue*0.25')).json.error.code).toBe('no_backend')
    await house.admin('POST', `/backends/mixes/adapters/${digest('2')}/probe`, {})
    const reply = await house.ask(key, 'red*0.5+blue*0.25')
    expect([reply.status, reply.json.choices[0].text]).toEqual([200, '1@0.5+0@0.25 says hello'])
    await house.admin('PUT', '/backends/mixes', rowOf('llama-cpp', llama, { enabled: false }))
    const vllm = await start('vllm')
    await row('no-mixes', 'vllm', vllm)
    expect((await house.ask(key, 'red*0.5+blue*0.25')).json.error.code).toBe('no_backend')
    expect(vllm.seen).toHaveLength(0)
  })

  it.each(['lorax', 'workers-ai'] as const)('by %s is nothing that it would ignore', async (kind) => {
    const { house, key, row } = setting
    const server = await start(kind)
    await row(`strict-${kind}`, kind, server)
    for (const more of [{ logit_bias: { 5: 1 } }, { n: 2 }, { prompt: ['a', 'b'] }, { logprobs: 2 }]) {
      const reply = await house.ask(key, 'plain', more)
      expect([reply.status, reply.json.error.param]).toEqual([400, Object.keys(more)[0]])
    }
    expect(server.seen).toHaveLength(0)
    expect((await house.ask(key, 'plain', { n: 1, temperature: 0.5 })).status).toBe(200)
  })

  it('is not what the caller calls a tool call, nor what the backend calls one', async () => {
    const { house, key, row } = setting
    const server = await start('openai')
    await row('tools', 'openai', server)
    const tools = [{ type: 'function', function: { name: 'f' } }]
    const reply = await chat(house, key, 'plain', { tools })
    const id = reply.headers.get('x-request-id')
    expect(reply.json.choices[0]).toMatchObject({ message: { tool_calls: [{ id: `call_${id}_0_0` }] } })
  })

  it('embeds, where its kind does', async () => {
    const { house, key, row } = setting
    const server = await start('vllm')
    await row('embeds', 'vllm', server)
    const reply = await house.call('POST', '/v1/embeddings', key, { model: 'plain', input: 'hi' })
    expect(reply.json).toEqual({
      object: 'list',
      model: 'plain',
      data: [{ object: 'embedding', index: 0, embedding: [1] }],
      usage: { prompt_tokens: 7, completion_tokens: 2, total_tokens: 9 },
    })
    expect(server.seen[0]?.body).toEqual({ input: 'hi', model: BASE_NAME })
  })
})

describe('a credential', () => {
  it('that is not bound keeps the backend from being called at all', async () => {
    const { house, key, row, name, probe } = setting
    const server = await start('vllm')
    await row('unbound', 'vllm', server, { secret: 'UPSTREAM_NOWHERE' })
    await name('unbound', 'vllm')
    expect((await probe('unbound')).reason).toContain('its credential is not bound')
    expect((await house.ask(key, 'plain')).json.error.code).toBe('no_backend')
    expect(server.seen).toHaveLength(0)
    expect(house.logged().some((line) => line.includes('UPSTREAM_NOWHERE'))).toBe(true)
  })

  it.each(['PEPPERS', 'CAPABILITY_SECRET', 'UPSTREAM_', 'upstream_key', 'UPSTREAM_a', KEY])(
    'cannot be named %s: only bindings of that prefix go out',
    async (secret) => {
      const body = rowOf('vllm', { url: 'http://x.test' } as StandIn, { secret })
      const reply = await setting.house.call('PUT', '/admin/backends/bad', setting.house.adminKey, body)
      expect([reply.status, reply.json.error.param]).toEqual([400, 'secret'])
    },
  )

  it('is in no answer and in no log', async () => {
    const { house, key, row } = setting
    const server = await start('vllm', 'another-key')
    await row('wrong-key', 'vllm', server, { secret: 'UPSTREAM_KEY' })
    const reply = await house.ask(key, 'plain')
    expect([reply.status, reply.json.error.code]).toEqual([502, 'upstream_failed'])
    const text = reply.text + (await house.admin('GET', '/backends')).text + house.logged().join('\n')
    expect(text).not.toContain(KEY)
  })
})

describe('the probe', () => {
  it.each(['vllm', 'sglang'] as const)('has %s load what is not there yet, where it may', async (kind) => {
    const { house, row, probe } = setting
    const server = await start(kind)
    const path = `/backends/loads-${kind}/adapters/${RED}`
    await row(`loads-${kind}`, kind, server)
    const early = await house.call('PUT', `/admin${path}`, house.adminKey, { upstream: 'late', source: '/loras/late' })
    expect([early.status, early.json.error.param]).toEqual([400, 'source'])
    await row(`loads-${kind}`, kind, server, { mayLoad: true })
    await house.admin('PUT', path, { upstream: 'late' })
    expect((await probe(`loads-${kind}`)).reason).toMatch(/status 40[04]/)
    await house.admin('PUT', path, { upstream: 'late', source: '/loras/late' })
    expect((await probe(`loads-${kind}`)).status).toBe('active')
    // Once more, where loading is refused because it is loaded.
    expect((await probe(`loads-${kind}`)).status).toBe('active')
    expect(server.loaded.has('late')).toBe(true)
  })

  it('tells nothing of a server that never says the same twice, and refuses the adapter', async () => {
    const { row, name, probe } = setting
    const server = await start('vllm')
    await row('random', 'vllm', server)
    await name('random', 'vllm')
    server.order('serve-at-random')
    expect((await probe('random', { prompts: ['a'] })).reason).toContain('differently each time')
  })

  it.each([
    ['be-dead', 'did not answer'],
    ['fail', 'status 500'],
    ['not-json', 'not that of its kind'],
  ] as const)('takes an active adapter out of use where the backend does %s', async (order, reason) => {
    const { house, key, row, name, probe } = setting
    const server = await start('vllm')
    await row(`fails-${order}`, 'vllm', server)
    await name(`fails-${order}`, 'vllm')
    expect((await probe(`fails-${order}`)).status).toBe('active')
    server.order(order)
    const verdict = await probe(`fails-${order}`)
    expect([verdict.status, String(verdict.reason).includes(reason)]).toEqual(['refused', true])
    server.order('serve')
    expect((await house.ask(key, 'red')).json.error.code).toBe('no_backend')
  })

  it('is owed again after any change of what is served, or where', async () => {
    const { house, key, row, name, probe } = setting
    const [one, two] = [await start('vllm'), await start('vllm')]
    await row('moves', 'vllm', one)
    await name('moves', 'vllm')
    await probe('moves')
    expect(await name('moves', 'vllm')).toMatchObject({ status: 'active' })
    await row('moves', 'vllm', two)
    expect((await house.ask(key, 'red')).json.error.code).toBe('no_backend')
    await probe('moves')
    expect((await house.ask(key, 'red')).status).toBe(200)
    expect(await name('moves', 'vllm', { upstream: 'other' })).toMatchObject({ status: 'untested', reason: null })
    expect((await house.ask(key, 'red')).json.error.code).toBe('no_backend')
  })
})

describe('faults', () => {
  const both = async (id: string) => {
    const servers = [await start('vllm'), await start('vllm')] as const
    await setting.row(`${id}-a`, 'vllm', servers[0])
    await setting.row(`${id}-b`, 'vllm', servers[1])
    return servers
  }

  it.each(['be-dead', 'fail', 'closed'] as const)(
    'a replica that is %s is stepped over, within its time',
    async (fault) => {
      const { house, key } = setting
      const [one, two] = await both(`step-${fault}`)
      if (fault === 'closed') await one.close().then(() => open.splice(open.indexOf(one), 1))
      else one.order(fault)
      for (let i = 0; i < 8; i++) expect((await house.ask(key, 'plain', { stream: i % 2 === 0 })).status).toBe(200)
      expect(two.seen.length).toBe(8)
    },
  )

  it.each([
    ['be-dead', 503, 'upstream_timeout'],
    ['hang', 503, 'upstream_timeout'],
    ['fail', 502, 'upstream_failed'],
  ] as const)('without another replica, %s is a %i', async (order, status, code) => {
    const { house, key, row } = setting
    const server = await start('vllm')
    await row(`alone-${order}`, 'vllm', server)
    server.order(order)
    const reply = await house.ask(key, 'plain')
    expect([reply.status, reply.json.error.code]).toEqual([status, code])
  })

  it('a backend that hangs but is alive is waited for until its first byte is due', async () => {
    const { house, key, row } = setting
    const server = await start('vllm')
    await row('slow', 'vllm', server)
    server.order('hang')
    const began = performance.now()
    await house.ask(key, 'plain', { stream: true })
    expect(performance.now() - began).toBeGreaterThan(390)
    server.order('be-dead')
    const dead = performance.now()
    await house.ask(key, 'plain', { stream: true })
    expect(performance.now() - dead).toBeLessThan(390)
  })

  it('a backend that drains is waited for, though it says that it is not ready', async () => {
    const { house, key, row } = setting
    const server = await start('vllm')
    await row('drains', 'vllm', server)
    server.order('drain')
    expect((await house.ask(key, 'plain')).status).toBe(200)
  })

  it('five in a row shut a backend out at once, until a trial finds it well', async () => {
    const { house, key, row } = setting
    const server = await start('vllm')
    await row('breaks', 'vllm', server)
    server.order('fail')
    const codes: unknown[] = []
    for (let i = 0; i < 7; i++) codes.push((await house.ask(key, 'plain')).json.error.code)
    expect(codes).toEqual([...Array(5).fill('upstream_failed'), 'no_backend', 'no_backend'])
    expect(server.seen).toHaveLength(5)
    server.order('serve')
    house.clock.now += 2_000
    expect((await house.ask(key, 'plain')).status).toBe(200)
    expect((await house.ask(key, 'plain')).status).toBe(200)
  })

  it('a draining backend gets nothing while another can, and is the last resort', async () => {
    const { house, key, row } = setting
    const [one, two] = await both('drain')
    await row('drain-a', 'vllm', one, { draining: true })
    for (let i = 0; i < 6; i++) await house.ask(key, 'plain')
    expect([one.seen.length, two.seen.length]).toEqual([0, 6])
    await row('drain-b', 'vllm', two, { enabled: false })
    expect((await house.ask(key, 'plain')).status).toBe(200)
    expect(one.seen.length).toBe(1)
  })

  it('a caller who reads nothing holds no memory here: the backend is made to wait', async () => {
    const { house, key, row } = setting
    const server = await start('vllm')
    await row('endless', 'vllm', server)
    server.order('endless')
    const { response, finish } = await house.open('/v1/completions', {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'plain', prompt: 'x', stream: true }),
    })
    const reader = response.body!.getReader()
    await reader.read()
    // Until the server stands still: it has filled the sockets between them, and nobody takes more.
    let before = -1
    while (before !== server.sent()) {
      before = server.sent()
      await new Promise((resolve) => setTimeout(resolve, 60))
    }
    expect(before).toBeLessThan(8 << 20)
    for (let read = 0; read < before + (1 << 20); ) read += (await reader.read()).value?.length ?? 0
    expect(server.sent()).toBeGreaterThan(before)
    await reader.cancel()
    await finish()
  })
})
