// What the gateway on Node counts, and who may read it.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createSpanCounter } from '../../cli/gateway/count-spans.ts'
import { serveMetrics } from '../../cli/gateway/serve-metrics.ts'
import { sumOf } from '../../gateway/upstream/read-metrics.ts'
import { answerWhole, type Host, startHost } from './gateway-host.ts'

const TOKEN = 'a-metrics-token-of-the-tests-0123456789'
const counter = createSpanCounter()
let host: Host
let fails = false
beforeAll(async () => {
  host = await startHost(
    (request, response) => {
      if (fails) response.writeHead(500).end()
      else answerWhole(request, response)
    },
    { counter },
  )
})
afterAll(() => host.close())

const reads = async (series: string) => sumOf((await counter.text()).replaceAll(series, 'found'), 'found')

describe('the gateway on Node', () => {
  it('counts requests, decisions, admissions, tokens and times', async () => {
    for (let i = 0; i < 3; i++) expect((await host.ask()).status).toBe(200)
    expect((await host.ask({ model: 'nowhere' })).status).toBe(404)
    await host.ask({ model: 'red', prompt: 7, [`field-${'x'.repeat(50)}`]: 1 })
    fails = true
    expect((await host.ask()).status).toBe(502)
    fails = false
    await fetch(`${host.url}/v1/models`)
    const route = 'route="/v1/completions"'
    await expect.poll(() => reads(`sidepath_gateway_requests_total{${route},status="200"}`)).toBe(3)
    expect(await reads(`sidepath_gateway_requests_total{${route},status="404"}`)).toBe(1)
    expect(await reads(`sidepath_gateway_requests_total{${route},status="502"}`)).toBe(1)
    expect(await reads('sidepath_gateway_requests_total{route="/v1/models",status="401"}')).toBe(1)
    expect(await reads('sidepath_gateway_decisions_total{outcome="granted"}')).toBe(4)
    expect(await reads('sidepath_gateway_decisions_total{outcome="denied"}')).toBe(1)
    expect(await reads('sidepath_gateway_admissions_total{outcome="admitted"}')).toBe(4)
    expect(await reads('sidepath_gateway_refusals_total{reason="model_not_found"}')).toBe(1)
    expect(await reads('sidepath_gateway_refusals_total{reason="invalid_api_key"}')).toBe(1)
    expect(await reads('sidepath_gateway_answers_total{outcome="settled"}')).toBe(3)
    expect(await reads('sidepath_gateway_answers_total{outcome="failed"}')).toBe(1)
    expect(await reads('sidepath_gateway_tokens_total{kind="prompt"}')).toBe(21)
    expect(await reads('sidepath_gateway_tokens_total{kind="completion"}')).toBe(9)
    expect(await reads('sidepath_gateway_upstream_seconds_count{outcome="ok"}')).toBe(3)
    expect(await reads('sidepath_gateway_upstream_seconds_count{outcome="upstream_failed"}')).toBe(1)
    expect(await reads('sidepath_gateway_time_to_first_byte_seconds_count')).toBe(3)
    expect(await reads('sidepath_gateway_database_seconds_count{kind="write"}')).toBeGreaterThan(6)
    expect(await reads('sidepath_gateway_database_seconds_count{kind="read"}')).toBeGreaterThan(3)
    expect(await counter.text()).toContain('sidepath_gateway_breaker_state{backend="one"} 0')
  })

  it('counts a request that its limit has no room for by its reason, and a backend that is shut out', async () => {
    const call = (path: string, body: object) =>
      fetch(`${host.url}/admin/tenants/acme/${path}`, {
        method: 'PUT',
        headers: { authorization: `Bearer ${host.adminKey}`, 'content-type': 'application/json' },
        body: JSON.stringify(body),
      })
    const limit = { scope: { kind: 'tenant' }, metric: 'requests', window: 'day', amount: 1 }
    expect((await call('limits/none', limit)).status).toBe(201)
    expect([(await host.ask()).status, (await host.ask()).status]).toEqual([200, 429])
    await call('limits/none', { ...limit, disabled: true })
    await expect.poll(() => reads('sidepath_gateway_admissions_total{outcome="insufficient_quota"}')).toBe(1)
    fails = true
    for (let i = 0; i < 5; i++) await host.ask()
    fails = false
    expect(await counter.text()).toContain('sidepath_gateway_breaker_state{backend="one"} 2')
  })

  it('has no more series for a thousand paths, and none with what callers wrote', async () => {
    const before = (await counter.text()).split('\n').filter((line) => line.includes('route=')).length
    await Promise.all(
      Array.from({ length: 100 }, (_, i) =>
        fetch(`${host.url}/v1/models/secret-${i}?key=${host.key}`, { method: 'PROPFIND' }).then((r) => r.text()),
      ),
    )
    await Promise.all(Array.from({ length: 100 }, (_, i) => fetch(`${host.url}/nowhere-${i}`).then((r) => r.text())))
    const text = await counter.text()
    // Two routes more, whoever asks for what.
    expect(text.split('\n').filter((line) => line.includes('route=')).length).toBeLessThan(before + 60)
    expect(text).not.toMatch(/secret-|nowhere-|PROPFIND/)
    expect(text).not.toContain(host.key.split('_')[3])
  })
})

describe('/metrics', () => {
  const open = async (token: string | undefined, act: (url: string) => Promise<void>) => {
    const served = await serveMetrics({ host: '127.0.0.1', port: 0, token }, counter)
    await act(served.url).finally(served.close)
  }

  it('is on a port of its own, and nothing else is there', async () => {
    expect((await fetch(`${host.url}/metrics`)).status).toBe(401)
    await open(undefined, async (url) => {
      const found = await fetch(`${url}/metrics`)
      expect([found.status, found.headers.get('content-type')]).toEqual([200, expect.stringContaining('text/plain')])
      expect(await found.text()).toContain('sidepath_gateway_requests_total')
      expect((await fetch(`${url}/`)).status).toBe(404)
      expect((await fetch(`${url}/metrics`, { method: 'POST' })).status).toBe(404)
    })
  })

  it('asks for its token where there is one', async () => {
    await open(TOKEN, async (url) => {
      for (const authorization of [undefined, 'Bearer x', `Bearer ${TOKEN}x`, TOKEN]) {
        const found = await fetch(`${url}/metrics`, { headers: authorization === undefined ? {} : { authorization } })
        expect([found.status, await found.text()]).toEqual([401, ''])
      }
      expect((await fetch(`${url}/metrics`, { headers: { authorization: `Bearer ${TOKEN}` } })).status).toBe(200)
    })
  })

  it('does not start where others could read it without a token', async () => {
    await expect(serveMetrics({ host: '0.0.0.0', port: 0, token: undefined }, counter)).rejects.toThrow(
      /SIDEPATH_METRICS_TOKEN is not set/,
    )
    await expect(serveMetrics({ host: '127.0.0.1', port: 0, token: 'short' }, counter)).rejects.toThrow(/not usable/)
  })
})
