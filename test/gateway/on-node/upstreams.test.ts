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
