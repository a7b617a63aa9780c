// Metrics, traces and the drain: what those who run the backend see of it.
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { describe, expect, test } from 'vitest'
import { paths } from '../../gpu-backend/contract.ts'
import { serve } from '../../gpu-backend/serve.ts'
import { eventually, read, startBackend } from './backend.ts'
import { claimsOf, mint, SECRET } from './mint.ts'

const at = startBackend()
const TOKEN = 'a token for the scraper, long enough'

const scrape = async (): Promise<string> => (await at.call(paths.metrics, { as: { act: 'admin' } })).text()
/** The value of a series, by its name and what its labels hold beside the model. */
function seriesOf(text: string, name: string, labels = ''): number {
  const line = text.split('\n').find((one) => one.startsWith(name) && one.includes(labels) && !one.startsWith('#'))
  if (line === undefined) throw new Error(`no ${name} in ${text}`)
  return Number(line.split(' ').at(-1))
}

describe('metrics', () => {
  test('are for a capability that may admin, and in the text format of Prometheus', async () => {
    const answer = await at.call(paths.metrics, { as: { act: 'admin' } })
    expect([answer.status, answer.headers.get('content-type')]).toEqual([
      200,
      expect.stringMatching(/^text\/plain; version=0\.0\.4/),
    ])
    expect((await at.call(paths.metrics, { as: { act: 'infer' } })).status).toBe(403)
    expect((await fetch(at.backend.url + paths.metrics)).status).toBe(401)
    for (const line of (await answer.text()).trimEnd().split('\n')) {
      expect(line).toMatch(
        /^(# (HELP|TYPE) [\w:]+ .+|[\w:]+(\{[\w]+="[^"]*"(,[\w]+="[^"]*")*\})? [-+\deE.]+|[\w:]+_bucket\{.*\} \d+|)$/,
      )
    }
  })

  test('count prompts, tokens, ends and times under vLLM’s names', async () => {
    const before = await scrape()
    const { usage } = await read(
      at.post(paths.completions, { prompt: ['In the', 'The'], max_tokens: 5, temperature: 0 }),
    )
    await at.post(paths.completions, { prompt: 'x', max_tokens: 600 })
    const after = await scrape()
    const grown = (name: string, labels = ''): number =>
      seriesOf(after, name, labels) - (labels === '' ? seriesOf(before, name) : 0)
    expect(grown('vllm:generation_tokens_total')).toBe(usage.completion_tokens)
    expect(grown('vllm:prompt_tokens_total')).toBeGreaterThan(2)
    expect(grown('vllm:time_to_first_token_seconds_count')).toBe(1)
    expect(grown('vllm:inter_token_latency_seconds_count')).toBe(8)
    expect(grown('vllm:e2e_request_latency_seconds_count')).toBe(2)
    expect(grown('vllm:request_success_total', 'finished_reason="length"')).toBe(1)
    expect(grown('sidepath_request_failed_total', 'code="context_length_exceeded"')).toBe(1)
    expect(after).toContain(`model_name="${at.demo.manifest.base.digest}"`)
  })

  test('show what runs, what waits, and which adapters, while they do', async () => {
    const adapter = at.demo.digest('triage')
    const controller = new AbortController()
    const asked = Array.from({ length: 10 }, (_, seed) =>
      at
        .call(paths.completions, {
          method: 'POST',
          body: JSON.stringify({ prompt: 'In the', seed, max_tokens: 480, logit_bias: { 2: -100 } }),
          signal: controller.signal,
          as: { adapter },
        })
        .catch(() => {}),
    )
    const text = await eventually(async () => {
      const found = await scrape()
      return seriesOf(found, 'vllm:num_requests_running') === 8 && seriesOf(found, 'vllm:num_requests_waiting') === 2
        ? found
        : undefined
    })
    expect(text).toMatch(
      new RegExp(`vllm:lora_requests_info\\{running_lora_adapters="${adapter}",waiting_lora_adapters="",max_lora="8",`),
    )
    expect(seriesOf(text, 'vllm:lora_requests_info')).toBeCloseTo(Date.now() / 1000, -2)
    const used = seriesOf(text, 'vllm:kv_cache_usage_perc')
    expect(used).toBeGreaterThan(0)
    expect(used).toBe(seriesOf(text, 'vllm:gpu_cache_usage_perc'))
    controller.abort()
    await Promise.all(asked)
    await eventually(async () => (seriesOf(await scrape(), 'vllm:num_requests_running') === 0 ? true : undefined))
  })

  test('are for a scraper’s token or for everybody where the start says so', async () => {
    const options = { artifact: at.demo.path, secret: SECRET, port: 0, log: () => {} }
    const guarded = await serve({ ...options, metrics: { token: TOKEN } })
    const get = async (authorization: string) =>
      (await fetch(guarded.url + paths.metrics, { headers: { authorization } })).status
    expect([await get(`Bearer ${TOKEN}`), await get(`Bearer ${TOKEN}x`), await get('')]).toEqual([200, 401, 401])
    await guarded.close()
    const open = await serve({ ...options, metrics: 'public' })
    expect((await fetch(open.url + paths.metrics)).status).toBe(200)
    await open.close()
    await expect(serve({ ...options, metrics: { token: 'short' } })).rejects.toMatchObject({ code: 'config_invalid' })
  })
})

describe('traces', () => {
  test('a traceparent is in both lines of a request, and one that is none is in neither', async () => {
    const traceId = '4bf92f3577b34da6a3ce929d0e0e4736'
    const parentId = '00f067aa0ba902b7'
    const body = JSON.stringify({ prompt: 'In', max_tokens: 1 })
    for (const [header, expected] of [
      [`00-${traceId}-${parentId}-01`, { traceId, parentId }],
      [`00-${'0'.repeat(32)}-${parentId}-01`, { traceId: undefined }],
      [`00-${traceId}-${parentId}-01-more`, { traceId: undefined }],
    ] as const) {
      const before = at.logged.length
      await at.call(paths.completions, { method: 'POST', body, headers: { traceparent: header } })
      const lines = at.logged.slice(before)
      expect(lines.map(({ event }) => event).sort()).toEqual(['generation', 'request'])
      for (const line of lines) expect({ traceId: undefined, ...line }).toMatchObject(expected)
    }
  })
})

describe('the drain', () => {
  test('finishes what runs, and tells who comes to go elsewhere', async () => {
    const other = await serve({ artifact: at.demo.path, secret: SECRET, port: 0, log: () => {} })
    const authorization = `Bearer ${await mint(claimsOf(other.ready.base))}`
    const ask = (body: object) =>
      fetch(other.url + paths.completions, { method: 'POST', headers: { authorization }, body: JSON.stringify(body) })
    const streamed = await ask({ prompt: 'In the', max_tokens: 200, seed: 1, logit_bias: { 2: -100 }, stream: true })
    const closing = other.close()
    const refused = await ask({ prompt: 'x' })
    expect([refused.status, refused.headers.get('retry-after')]).toEqual([503, '1'])
    expect((await read(refused)).error.code).toBe('draining')
    expect((await fetch(other.url + paths.ready)).status).toBe(503)
    expect((await fetch(other.url + paths.health)).status).toBe(200)
    const text = await streamed.text()
    expect(text).toContain('"finish_reason":"length"')
    expect(text.trimEnd().endsWith('data: [DONE]')).toBe(true)
    await closing
  })
})

describe('the spans of a generation', () => {
  interface Told {
    readonly traceId: string
    readonly spanId: string
    readonly parentSpanId?: string
    readonly name: string
    readonly startTimeUnixNano: string
    readonly endTimeUnixNano: string
  }

  test('say how long each row waited, ran its prompt and decoded, in the trace of the gateway, and nothing of the prompt', async () => {
    const posts: string[] = []
    const collector = createServer((request, response) => {
      let body = ''
      request.on('data', (chunk) => (body += chunk))
      request.on('end', () => {
        posts.push(body)
        response.end('{}')
      })
    }).listen(0, '127.0.0.1')
    await once(collector, 'listening')
    const url = `http://127.0.0.1:${(collector.address() as AddressInfo).port}/v1/traces`
    const otlp = { url, headers: {}, service: 'sidepath-backend', ratio: 1 }
    const other = await serve({ artifact: at.demo.path, secret: SECRET, port: 0, log: () => {}, otlp })
    const [traceId, parentId] = ['4bf92f3577b34da6a3ce929d0e0e4736', '00f067aa0ba902b7']
    const adapter = at.demo.manifest.adapters[0]!.digest
    const ask = async (flags: string, more: object, claims = {}) => {
      const authorization = `Bearer ${await mint(claimsOf(other.ready.base, claims))}`
      const headers = { authorization, traceparent: `00-${traceId}-${parentId}-${flags}` }
      const body = JSON.stringify({
        prompt: 'In the confidential matter',
        max_tokens: 4,
        logit_bias: { 2: -100 },
        ...more,
      })
      const answer = await fetch(other.url + paths.completions, { method: 'POST', headers, body })
      expect(answer.status).toBe(200)
      await answer.text()
    }
    await ask('00', {})
    await ask('01', { n: 2 })
    await ask('01', { stream: true }, { adapter })
    await other.close()
    collector.close()
    const spans = posts.flatMap((post) => JSON.parse(post).resourceSpans[0].scopeSpans[0].spans as Told[])
    const roots = spans.filter(({ parentSpanId }) => parentSpanId === parentId)
    expect(roots.map(({ name }) => name)).toEqual(['POST /v1/completions', 'POST /v1/completions'])
    const stepsOf = (root: Told | undefined) => spans.filter(({ parentSpanId }) => parentSpanId === root?.spanId)
    expect(
      stepsOf(roots[0])
        .map(({ name }) => name)
        .sort(),
    ).toEqual(['decode', 'prefill', 'queue', 'decode', 'prefill', 'queue'].sort())
    // Nobody had used the adapter before.
    expect(stepsOf(roots[1]).map(({ name }) => name)).toEqual(['queue', 'load', 'prefill', 'decode'])
    const at4 = stepsOf(roots[1])
    for (const [i, step] of at4.entries()) {
      expect(step.traceId).toBe(traceId)
      expect(BigInt(step.endTimeUnixNano)).toBeGreaterThanOrEqual(BigInt(step.startTimeUnixNano))
      // Each begins where the one before it ends.
      if (i > 0) expect(step.startTimeUnixNano).toBe(at4[i - 1]!.endTimeUnixNano)
    }
    expect(posts.join('')).not.toMatch(/confidential|eyJ/)
  })
})
