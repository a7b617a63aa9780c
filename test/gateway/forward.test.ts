// Forwarding: what the backend gets, what the caller gets, and the reserve backend.
import { beforeEach, describe, expect, it } from 'vitest'
import { FAILURES_TO_OPEN } from '../../gateway/upstream/breaker.ts'
import { CAPABILITY_TTL_S } from '../../gpu-backend/contract.ts'
import { adapter, allow, BASE, base, createHouse, digest, type House, NOW, seed, toTenant } from './house.ts'

let house: House
let key: string
beforeEach(async () => {
  house = await createHouse()
  await seed(house)
  await house.admin('PUT', '/backends/two', { url: 'http://two.test', base: BASE, enabled: false })
  await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
  await house.admin('PUT', '/tenants/acme/grants/base', allow(toTenant, base))
  key = (await house.mint('acme')).key
})

const withReserve = () => house.admin('PUT', '/backends/two', { url: 'http://two.test', base: BASE })
const usageOf = async (requestId: string | null) =>
  (await house.admin('GET', '/tenants/acme/usage')).json.data.find((row) => row.requestId === requestId)

describe('what the backend gets', () => {
  it('is a body rebuilt from the parsed fields, without a model', async () => {
    await house.ask(key, 'red', { max_tokens: 5, temperature: 0.5, stop: ['a'], seed: 7 })
    expect(house.backend.seen[0]?.body).toEqual({ prompt: 'hi', max_tokens: 5, temperature: 0.5, stop: ['a'], seed: 7 })
    await house.call('POST', '/v1/chat/completions', key, { model: 'red', messages: [{ role: 'user', content: 'hi' }] })
    expect(house.backend.seen[1]).toMatchObject({
      path: '/v1/chat/completions',
      body: { messages: [{ role: 'user', content: 'hi' }] },
    })
  })

  it('is asked for usage in every chunk of a stream, and for the last one as the caller asked', async () => {
    await house.ask(key, 'red', { stream: true })
    await house.ask(key, 'red', {
      stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: false },
    })
    await house.ask(key, 'red', { stream: false })
    expect(house.backend.seen.map((seen) => seen.body.stream_options)).toEqual([
      { include_usage: false, continuous_usage_stats: true },
      { include_usage: true, continuous_usage_stats: true },
      undefined,
    ])
  })

  it('is told by a short-lived capability what may run, and for whom', async () => {
    await house.ask(key, 'red')
    await house.ask(key, 'plain')
    const [red, plain] = house.backend.seen.map((seen) => seen.claims)
    expect(red).toMatchObject({
      act: 'infer',
      tenant: 'acme',
      base: BASE,
      adapter: digest('1'),
      model: 'red',
      maxTokens: 64,
    })
    expect(plain).toMatchObject({ adapter: null, model: 'plain' })
    const tokens = house.backend.seen.map((seen) => seen.headers.get('authorization')?.split('.')[1] ?? '')
    const claims = tokens.map((token) => JSON.parse(atob(token.replaceAll('-', '+').replaceAll('_', '/'))))
    expect(claims[0].iat).toBe(Math.floor(NOW / 1000))
    expect(claims[0].exp - claims[0].iat).toBe(CAPABILITY_TTL_S)
    expect(claims[0].jti).not.toBe(claims[1].jti)
  })

  it('never holds the key, nor any header of the caller', async () => {
    const { response, finish } = await house.open('/v1/completions', {
      method: 'POST',
      headers: {
        authorization: `Bearer ${key}`,
        'content-type': 'application/json',
        'x-request-id': 'mine',
        cookie: 'a=b',
        'x-forwarded-for': '1.2.3.4',
        'openai-organization': 'x',
        connection: 'x-evil',
      },
      body: JSON.stringify({ model: 'red', prompt: 'x' }),
    })
    const seen = house.backend.seen[0]
    expect([...(seen?.headers.keys() ?? [])].sort()).toEqual([
      'accept',
      'authorization',
      'content-type',
      'traceparent',
      'x-request-id',
    ])
    expect(seen?.headers.get('x-request-id')).toBe(response.headers.get('x-request-id'))
    expect(JSON.stringify([...(seen?.headers ?? [])])).not.toContain(key)
    await response.text()
    await finish()
  })

  it('continues the trace of the caller with a span of the gateway, or begins one', async () => {
    const traceId = '4bf92f3577b34da6a3ce929d0e0e4736'
    const send = async (traceparent: string) => {
      const { response, finish } = await house.open('/v1/completions', {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', traceparent, tracestate: 'a=b' },
        body: JSON.stringify({ model: 'red', prompt: 'x' }),
      })
      await response.text()
      await finish()
      return house.backend.seen.at(-1)?.headers.get('traceparent') ?? ''
    }
    const continued = await send(`00-${traceId}-00f067aa0ba902b7-01`)
    expect(continued).toMatch(new RegExp(`^00-${traceId}-[0-9a-f]{16}-01$`))
    expect(continued).not.toContain('00f067aa0ba902b7')
    expect(house.logged().some((line) => line.includes(traceId) && line.includes('"event":"trace"'))).toBe(true)
    for (const bad of ['', `00-${'0'.repeat(32)}-00f067aa0ba902b7-01`, `01-${traceId}-00f067aa0ba902b7-01`]) {
      const fresh = await send(bad)
      expect(fresh).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-00$/)
      expect(fresh).not.toContain(traceId)
    }
  })

  it('holds every field that the contract knows, with its own bounds', async () => {
    const fields = {
      prompt: [[1, 2], [3]],
      n: 2,
      echo: true,
      logprobs: 3,
      max_tokens: 0,
      presence_penalty: -1,
      frequency_penalty: 1,
      logit_bias: { '5': -100 },
      best_of: 2,
    }
    await house.call('POST', '/v1/completions', key, { model: 'red', ...fields })
    expect(house.backend.seen.at(-1)?.body).toEqual(fields)
    const refused = await house.ask(key, 'red', { suffix: 'x' })
    expect([refused.status, refused.json.error.param]).toEqual([400, 'suffix'])
  })
})

describe('what the caller gets', () => {
  it('has the headers of the gateway and none of the backend', async () => {
    for (const more of [{}, { stream: true }]) {
      const reply = await house.ask(key, 'red', more)
      expect([...reply.headers.keys()].sort()).toEqual([
        'cache-control',
        'content-security-policy',
        'content-type',
        'referrer-policy',
        'strict-transport-security',
        'x-content-type-options',
        'x-request-id',
        'x-sidepath-receipt',
      ])
      expect(reply.text).toContain(digest('1'))
    }
  })

  it('includes a receipt by which the decision can be found', async () => {
    const reply = await house.ask(key, 'red')
    const receipt = reply.headers.get('x-sidepath-receipt')
    expect(receipt).toMatch(/^[0-9a-f]{32}$/)
    expect((await house.admin('GET', `/receipts/${receipt}`)).json).toMatchObject({
      requestId: reply.headers.get('x-request-id'),
      model: 'red',
      adapterDigest: digest('1'),
      grantId: 'red',
      experimentId: null,
      status: 'settled',
      promptTokens: 7,
      completionTokens: 3,
    })
  })

  it('is a 400 in the backend’s words where the request is at fault', async () => {
    house.backend.fail('one.test', {
      status: 400,
      body: {
        error: { message: 'prompt is too long', type: 'x', param: 'prompt', code: 'context_length_exceeded' },
        trace: 'internal-host-7',
      },
    })
    const reply = await house.ask(key, 'red')
    expect([reply.status, reply.json]).toEqual([
      400,
      {
        error: {
          message: 'prompt is too long',
          type: 'invalid_request_error',
          param: 'prompt',
          code: 'context_length_exceeded',
        },
      },
    ])
    expect(await usageOf(reply.headers.get('x-request-id'))).toMatchObject({ status: 'failed', completionTokens: null })
  })

  it('is a 429 with Retry-After where the backend is busy', async () => {
    house.backend.fail('one.test', { status: 429, headers: { 'retry-after': '3' } })
    const reply = await house.ask(key, 'red')
    expect([reply.status, reply.headers.get('retry-after'), reply.json.error.type]).toEqual([
      429,
      '3',
      'rate_limit_error',
    ])
    house.backend.fail('one.test', { status: 429, headers: { 'retry-after': 'internal-host-7' } })
    expect((await house.ask(key, 'red')).headers.get('retry-after')).toBeNull()
  })

  it.each([
    ['refuse-connection', 502, 'upstream_failed'],
    ['redirect', 502, 'upstream_failed'],
    ['not-json', 502, 'upstream_invalid'],
    ['hang-before-first-byte', 503, 'upstream_timeout'],
    [{ status: 500 }, 502, 'upstream_failed'],
    [{ status: 401 }, 502, 'upstream_failed'],
    [{ status: 404 }, 502, 'upstream_failed'],
    [{ status: 503 }, 503, 'upstream_failed'],
  ] as const)(
    'is an OpenAI error that says nothing of the inside where the backend fails by %j',
    async (fault, status, code) => {
      house.backend.fail('one.test', fault)
      for (const more of fault === 'not-json' ? [{}] : [{}, { stream: true }]) {
        const reply = await house.ask(key, 'red', more)
        expect([reply.status, reply.json.error.code, reply.json.error.type]).toEqual([status, code, 'api_error'])
        expect(reply.text + JSON.stringify([...reply.headers])).not.toContain('internal-host')
        expect(await usageOf(reply.headers.get('x-request-id'))).toMatchObject({ status: 'failed' })
      }
      expect(house.logged().join('\n')).not.toContain('internal-host')
    },
  )

  it('is a 503 where no backend of the base is enabled', async () => {
    await house.admin('PUT', '/backends/one', { url: 'http://one.test', base: BASE, enabled: false })
    const reply = await house.ask(key, 'red')
    expect([reply.status, reply.json.error.code]).toEqual([503, 'no_backend'])
  })
})

describe('embeddings', () => {
  const embed = (model: string, more: object = {}) =>
    house.call('POST', '/v1/embeddings', key, { model, input: ['hi', 'there'], ...more })

  it('go the way of every request: authorised, signed, answered, metered', async () => {
    const reply = await embed('red', { encoding_format: 'base64' })
    expect([reply.status, reply.json.data]).toEqual([200, [{ object: 'embedding', index: 0, embedding: [1] }]])
    expect(house.backend.seen[0]).toMatchObject({
      path: '/v1/embeddings',
      claims: { act: 'infer', tenant: 'acme', base: BASE, adapter: digest('1'), model: 'red' },
      body: { input: ['hi', 'there'], encoding_format: 'base64' },
    })
    expect(await usageOf(reply.headers.get('x-request-id'))).toMatchObject({
      status: 'settled',
      model: 'red',
      promptTokens: 7,
      completionTokens: 0,
      grantId: 'red',
    })
  })

  it('of a model that is not granted are those of one that does not exist', async () => {
    const [forbidden, unknown] = [await embed('blue'), await embed('no-such')]
    expect([forbidden.status, forbidden.text]).toEqual([404, unknown.text])
    expect(house.backend.seen).toHaveLength(0)
  })

  it.each([
    [{ input: [] }, 'input'],
    [{ input: 3 }, 'input'],
    [{ stream: true }, 'stream'],
    [{ adapter: digest('2') }, 'adapter'],
  ])('with %j are refused by name', async (more, field) => {
    const reply = await embed('red', more)
    expect([reply.status, reply.json.error.param]).toEqual([400, field])
  })

  it('are settled without a count where the backend gives none', async () => {
    house.backend.fail('one.test', 'no-usage')
    const reply = await embed('red')
    expect(await usageOf(reply.headers.get('x-request-id'))).toMatchObject({ status: 'settled', promptTokens: null })
  })
})

describe('the reserve backend', () => {
  const bothHosts = () => house.backend.seen.map((seen) => seen.host).sort()
  /** Makes the one that the adapter prefers fail. */
  const failPreferred = async (fault: Parameters<House['backend']['fail']>[1]) => {
    await house.ask(key, 'red')
    const preferred = house.backend.seen[0]?.host ?? ''
    house.backend.seen.length = 0
    house.backend.fail(preferred, fault)
  }

  it.each(['refuse-connection', 'hang-before-first-byte', 'empty-stream', { status: 503 }, { status: 429 }] as const)(
    'takes over before the first byte after %j, billed once',
    async (fault) => {
      await withReserve()
      await failPreferred(fault)
      const before = (await house.admin('GET', '/tenants/acme/usage')).json.data.length
      const reply = await house.ask(key, 'red', { stream: true })
      expect(reply.status).toBe(200)
      expect(reply.text.endsWith('data: [DONE]\n\n')).toBe(true)
      const rows = (await house.admin('GET', '/tenants/acme/usage')).json.data
      expect(rows.length).toBe(before + 1)
      expect(await usageOf(reply.headers.get('x-request-id'))).toMatchObject({ status: 'settled', completionTokens: 3 })
    },
  )

  it('does not take over after the first byte (invariant 8)', async () => {
    await withReserve()
    await failPreferred('reset-mid-stream')
    const reply = await house.ask(key, 'red', { stream: true })
    expect(house.backend.seen).toHaveLength(1)
    expect(reply.text).toContain('upstream_interrupted')
  })

  it('is not asked where the request itself is at fault', async () => {
    await withReserve()
    await failPreferred({ status: 400 })
    expect((await house.ask(key, 'red')).status).toBe(400)
    expect(house.backend.seen).toHaveLength(1)
  })

  it('is the last: an outage is not multiplied', async () => {
    await withReserve()
    await house.admin('PUT', '/backends/three', { url: 'http://three.test', base: BASE })
    for (const host of ['one.test', 'two.test', 'three.test']) house.backend.fail(host, 'refuse-connection')
    expect((await house.ask(key, 'red')).status).toBe(502)
    expect(bothHosts()).toHaveLength(2)
    await house.admin('PUT', '/backends/three', { url: 'http://three.test', base: BASE, enabled: false })
  })

  it('is there when it is needed, whatever requests that fail everywhere were brought to it before', async () => {
    await withReserve()
    await failPreferred({ status: 500 })
    const [preferred, reserve] = ['one.test', 'two.test'].sort((a) => (house.backend.fails(a) ? -1 : 1))
    house.backend.fail(String(reserve), { status: 500 })
    for (let i = 0; i <= FAILURES_TO_OPEN; i++) expect((await house.ask(key, 'red')).status).toBe(502)
    house.backend.fail(String(reserve), 'none')
    house.backend.fail(String(preferred), 'refuse-connection')
    expect((await house.ask(key, 'red')).status).toBe(200)
    expect(house.backend.seen.at(-1)?.host).toBe(reserve)
  })

  it('leaves an adapter with the backend where it is resident', async () => {
    await withReserve()
    for (let i = 0; i < 4; i++) await house.ask(key, 'red')
    expect(new Set(bothHosts()).size).toBe(1)
  })
})
