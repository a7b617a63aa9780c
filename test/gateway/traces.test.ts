// Traces: which spans a request leaves at a collector, what they say, and that no request waits for them or suffers by them.
import { env } from 'cloudflare:workers'
import { beforeEach, describe, expect, it } from 'vitest'
import { routeOf } from '../../gateway/observe-request.ts'
import { Exporter } from '../../telemetry/otlp.ts'
import { readOtlp } from '../../telemetry/read-otlp.ts'
import { Trace } from '../../telemetry/trace.ts'
import { adapter, allow, createHouse, type House, NOW, seed, toTenant } from './house.ts'

interface Told {
  readonly traceId: string
  readonly spanId: string
  readonly parentSpanId?: string
  readonly name: string
  readonly kind: number
  readonly startTimeUnixNano: string
  readonly endTimeUnixNano: string
  readonly attributes: { key: string; value: { stringValue?: string; intValue?: number } }[]
  readonly events: { name: string }[]
  readonly status?: { code: number }
}

const COLLECTOR = 'http://collector.test'
const TOKEN = 'collector-token-0123456789'
const ON = { OTEL_EXPORTER_OTLP_ENDPOINT: COLLECTOR, OTEL_EXPORTER_OTLP_HEADERS: `x-api-key=${TOKEN}` }
const CALLER = { traceId: '4bf92f3577b34da6a3ce929d0e0e4736', spanId: '00f067aa0ba902b7' }

let posts: { url: string; init: RequestInit }[]
let answer: (init: RequestInit) => Response | Promise<Response>
let house: House
let key: string

async function begin(bindings: object = ON): Promise<void> {
  const plain = await createHouse()
  await seed(plain)
  await plain.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
  key = (await plain.mint('acme')).key
  posts = []
  answer = () => Response.json({})
  house = await createHouse({
    bindings: { ...bindings },
    fetch(url, init) {
      if (!url.startsWith(COLLECTOR)) return house.backend.fetch(url, init)
      posts.push({ url, init })
      return Promise.resolve(answer(init))
    },
  })
}

/** As a caller with a trace of his own. */
async function ask(model: string, more: object = {}, flags = '01') {
  const { response, finish } = await house.open('/v1/completions', {
    method: 'POST',
    headers: {
      authorization: `Bearer ${key}`,
      'content-type': 'application/json',
      traceparent: `00-${CALLER.traceId}-${CALLER.spanId}-${flags}`,
    },
    body: JSON.stringify({ model, prompt: 'the secret of the caller', ...more }),
  })
  const text = await response.text()
  await finish()
  return { response, text }
}

function told(): Told[] {
  return posts.flatMap(({ init }) =>
    (JSON.parse(String(init.body)).resourceSpans as { scopeSpans: { spans: Told[] }[] }[]).flatMap(({ scopeSpans }) =>
      scopeSpans.flatMap(({ spans }) => spans),
    ),
  )
}

const attributeOf = (span: Told | undefined, key: string) => {
  const found = span?.attributes.find((one) => one.key === key)?.value
  return found?.stringValue ?? found?.intValue
}

describe('a request', { timeout: 20_000 }, () => {
  beforeEach(() => begin())

  it.each([false, true])('leaves a span for each step, in the trace of its caller (stream: %s)', async (stream) => {
    await ask('red', { stream })
    const spans = told()
    const [root] = spans
    expect(spans.map(({ name }) => name).sort()).toEqual([
      'POST /v1/completions',
      'admit',
      'authenticate',
      'decide',
      'settle',
      'upstream',
    ])
    expect(root).toMatchObject({ name: 'POST /v1/completions', kind: 2, parentSpanId: CALLER.spanId })
    for (const span of spans) {
      expect(span.traceId).toBe(CALLER.traceId)
      expect(span.spanId).toMatch(/^[0-9a-f]{16}$/)
      if (span !== root) expect(span.parentSpanId).toBe(root?.spanId)
      expect(BigInt(span.endTimeUnixNano)).toBeGreaterThanOrEqual(BigInt(span.startTimeUnixNano))
      expect(BigInt(span.startTimeUnixNano)).toBeGreaterThanOrEqual(BigInt(NOW) * 1_000_000n)
      expect(BigInt(span.endTimeUnixNano)).toBeLessThanOrEqual(BigInt(root?.endTimeUnixNano ?? 0))
    }
    expect(new Set(spans.map(({ spanId }) => spanId)).size).toBe(spans.length)
    const settle = spans.find(({ name }) => name === 'settle')
    expect(attributeOf(settle, 'gen_ai.usage.input_tokens')).toBe(7)
    expect(attributeOf(settle, 'gen_ai.usage.output_tokens')).toBe(3)
    expect(attributeOf(settle, 'sidepath.outcome')).toBe('settled')
    const upstream = spans.find(({ name }) => name === 'upstream')
    expect(upstream).toMatchObject({ kind: 3, events: [{ name: 'first byte' }] })
    expect(attributeOf(upstream, 'sidepath.backend')).toBe('one')
    // The backend goes on from the span that asked it.
    expect(house.backend.seen.at(-1)?.headers.get('traceparent')).toBe(`00-${CALLER.traceId}-${upstream?.spanId}-01`)
    expect(attributeOf(root, 'http.response.status_code')).toBe(200)
  })

  it('that is refused says why by a code, and one that fails upstream where', async () => {
    await ask('nowhere')
    expect(told().map(({ name, status }) => [name, status?.code])).toEqual([
      ['POST /v1/completions', 2],
      ['authenticate', undefined],
      ['decide', undefined],
    ])
    expect(attributeOf(told()[0], 'error.type')).toBe('model_not_found')
    posts.length = 0
    house.backend.fail('one.test', 'refuse-connection')
    await ask('red')
    expect(
      attributeOf(
        told().find(({ name }) => name === 'upstream'),
        'error.type',
      ),
    ).toBe('upstream_failed')
    expect(attributeOf(told()[0], 'http.response.status_code')).toBe(502)
    expect(
      attributeOf(
        told().find(({ name }) => name === 'settle'),
        'sidepath.outcome',
      ),
    ).toBe('failed')
  })

  it('tells nothing that is secret and nothing that the caller wrote', async () => {
    await ask('red')
    await ask(key)
    await house.call('GET', `/v1/models/${key}?key=${key}`, key)
    await house.call('PUT', '/admin/tenants/acme/roles/other', house.adminKey, {})
    expect(told().length).toBeGreaterThan(10)
    const text = posts.map(({ init }) => String(init.body)).join('\n')
    const capability = house.backend.seen[0]?.headers.get('authorization')?.replace('Bearer ', '') ?? ''
    for (const secret of [
      key.split('_')[3],
      house.adminKey.split('_')[3],
      capability,
      env.CAPABILITY_SECRET,
      ...Object.values(JSON.parse(env.PEPPERS).keys as Record<string, string>),
      TOKEN,
      'the secret of the caller',
    ]) {
      expect(String(secret).length).toBeGreaterThan(10)
      expect(text).not.toContain(secret)
    }
    expect(new Headers(posts[0]?.init.headers).get('x-api-key')).toBe(TOKEN)
    expect(posts.every(({ url, init }) => url === `${COLLECTOR}/v1/traces` && init.redirect === 'manual')).toBe(true)
    expect(house.logged().join('\n')).not.toContain(TOKEN)
  })

  it.each([
    ['answers 500', () => new Response(null, { status: 500 })],
    ['sends elsewhere', () => new Response(null, { status: 302, headers: { location: 'http://evil.test/' } })],
    ['is not there', () => Promise.reject(new TypeError('connect ECONNREFUSED'))],
  ])('is answered where the collector %s, and the spans are counted as lost', async (_what, how) => {
    answer = how
    expect((await ask('red')).response.status).toBe(200)
    expect(posts).toHaveLength(1)
    expect(house.logged().map((line) => JSON.parse(line))).toContainEqual({ event: 'telemetry.dropped', spans: 6 })
  })
})

describe('without an endpoint, or outside of the share', { timeout: 20_000 }, () => {
  it.each([
    ['no endpoint', {}],
    ['a share of 0', { ...ON, OTEL_TRACES_SAMPLER_ARG: '0' }],
  ])('(%s) nothing is told, whatever the caller asks for', async (_what, bindings) => {
    await begin(bindings)
    expect((await ask('red')).response.status).toBe(200)
    expect(posts).toEqual([])
    expect(house.backend.seen.at(-1)?.headers.get('traceparent')).toMatch(new RegExp(`^00-${CALLER.traceId}-.{16}-01$`))
  })

  it('a caller who does not want to be recorded is, by our own share', async () => {
    await begin()
    await ask('red', {}, '00')
    expect(told()).toHaveLength(6)
    expect(house.backend.seen.at(-1)?.headers.get('traceparent')).toMatch(/-01$/)
  })
})

describe('the variables', () => {
  it.each([
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: 'collector' }, ['OTEL_EXPORTER_OTLP_ENDPOINT']],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: 'http://user:word@collector' }, ['OTEL_EXPORTER_OTLP_ENDPOINT']],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: 'file:///etc' }, ['OTEL_EXPORTER_OTLP_ENDPOINT']],
    [{ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://c/?a=b' }, ['OTEL_EXPORTER_OTLP_TRACES_ENDPOINT']],
    [{ ...ON, OTEL_EXPORTER_OTLP_HEADERS: 'a b=c' }, ['OTEL_EXPORTER_OTLP_HEADERS']],
    [{ ...ON, OTEL_EXPORTER_OTLP_HEADERS: 'a=%0d%0ax: y' }, ['OTEL_EXPORTER_OTLP_HEADERS']],
    [{ ...ON, OTEL_EXPORTER_OTLP_HEADERS: 'a=%' }, ['OTEL_EXPORTER_OTLP_HEADERS']],
    [{ ...ON, OTEL_SERVICE_NAME: '', OTEL_TRACES_SAMPLER_ARG: '2' }, ['OTEL_SERVICE_NAME', 'OTEL_TRACES_SAMPLER_ARG']],
  ])('%j are refused by name', (given, names) => {
    expect(readOtlp(given, 'x')).toEqual(names)
  })

  it('are read as OpenTelemetry means them', () => {
    expect(readOtlp({}, 'x')).toBeUndefined()
    expect(readOtlp({ OTEL_EXPORTER_OTLP_HEADERS: 'a=b' }, 'x')).toBeUndefined()
    expect(
      readOtlp(
        { OTEL_EXPORTER_OTLP_ENDPOINT: 'https://c.test/otlp/', OTEL_EXPORTER_OTLP_HEADERS: 'a=b%2Cc, d = e' },
        'x',
      ),
    ).toEqual({ url: 'https://c.test/otlp/v1/traces', headers: { a: 'b,c', d: 'e' }, service: 'x', ratio: 1 })
    expect(readOtlp({ ...ON, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'http://t.test/x' }, 'x')).toMatchObject({
      url: 'http://t.test/x',
    })
  })

  it('that are not usable keep the gateway from answering at all', async () => {
    await begin()
    const reply = await house.call('GET', '/v1/models', key, undefined, { ...env, OTEL_EXPORTER_OTLP_ENDPOINT: 'x' })
    expect([reply.status, reply.json.error.code]).toEqual([503, 'gateway_misconfigured'])
    expect(house.logged().join('\n')).toContain('"bindings":"OTEL_EXPORTER_OTLP_ENDPOINT"')
  })
})

describe('the exporter', () => {
  const traceOf = (spans: number, exporter: Exporter) => {
    const trace = new Trace({
      name: 'x',
      traceId: CALLER.traceId,
      parentId: undefined,
      flags: '01',
      now: () => NOW,
      onEnd: (all) => exporter.add(all),
    })
    for (let i = 1; i < spans; i++) trace.begin('y')
    trace.end({})
  }

  it('holds no more than it may, sends in batches, and counts what did not fit', async () => {
    const sizes: number[] = []
    const lost: number[] = []
    const exporter = new Exporter({
      url: COLLECTOR,
      headers: {},
      service: 'x',
      ratio: 1,
      now: () => NOW,
      fetch: async (_url, { body }) => {
        sizes.push(JSON.parse(String(body)).resourceSpans[0].scopeSpans[0].spans.length)
        return Response.json({})
      },
      onDropped: (spans) => lost.push(spans),
    })
    for (let i = 0; i < 500; i++) traceOf(10, exporter)
    await exporter.flush()
    expect(Math.max(...sizes)).toBeLessThanOrEqual(512)
    expect(sizes.reduce((sum, size) => sum + size)).toBe(4_096)
    expect(lost).toEqual([5_000 - 4_096])
    expect(exporter.counts).toEqual({ exported: 4_096, dropped: 904 })
  })

  it('holds no more spans of one request than a request has', async () => {
    let size = 0
    const exporter = new Exporter({
      url: COLLECTOR,
      headers: {},
      service: 'x',
      ratio: 1,
      now: () => NOW,
      fetch: async (_url, { body }) => {
        size = JSON.parse(String(body)).resourceSpans[0].scopeSpans[0].spans.length
        return Response.json({})
      },
      onDropped: () => {},
    })
    traceOf(1_000, exporter)
    await exporter.flush()
    expect(size).toBe(64)
  })
})

it.each([
  ['/v1/models', '/v1/models'],
  ['/v1/models/red', '/v1/models/*'],
  ['/admin/tenants/acme', '/admin/*'],
  ['/v1/chat/completions/', 'other'],
  ['/%00', 'other'],
])('%s is counted as %s', (path, route) => {
  expect(routeOf(path)).toBe(route)
})
