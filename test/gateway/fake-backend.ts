// An OpenAI-like backend as a function: it verifies the capability, says which adapter ran, and can fail on request.

import { env } from 'cloudflare:workers'
import { jwtVerify } from 'jose'
import {
  CAPABILITY_ALGORITHM,
  CAPABILITY_AUDIENCE,
  CAPABILITY_ISSUER,
  type Capability,
  CapabilityClaims,
  ChatCompletionRequest,
  CompletionRequest,
  EmbeddingRequest,
  paths,
} from '../../gpu-backend/contract.ts'

export type Fault =
  | 'none'
  | 'refuse-connection'
  | 'hang-before-first-byte'
  | 'hang-mid-stream'
  | 'reset-mid-stream'
  | 'end-without-done'
  | 'bad-sse'
  | 'empty-stream'
  | 'no-usage'
  | 'redirect'
  | 'not-json'
  | { readonly status: number; readonly headers?: Record<string, string>; readonly body?: unknown }

export interface Seen {
  readonly host: string
  readonly path: string
  readonly headers: Headers
  readonly claims: Capability
  readonly body: Record<string, unknown>
  readonly signal: AbortSignal
}

const encoder = new TextEncoder()

function schemaOf(path: string) {
  if (path === paths.embeddings) return EmbeddingRequest
  return path === paths.chat ? ChatCompletionRequest : CompletionRequest
}

function ranBy({ adapter }: Capability): string {
  return typeof adapter === 'string' ? adapter : adapter === null ? 'base' : JSON.stringify(adapter)
}

export function createFakeBackend() {
  const seen: Seen[] = []
  const faults = new Map<string, Fault>()
  let readyBase: string | null = null
  /** What every model says; null: which adapter ran. */
  let line: string | null = null

  function eventsOf(claims: Capability): string[] {
    const event = (text: string, completion_tokens: number) =>
      `data: ${JSON.stringify({
        model: claims.model,
        choices: [{ index: 0, text, delta: { content: text } }],
        usage: { prompt_tokens: 7, completion_tokens, total_tokens: 7 + completion_tokens },
      })}\n\n`
    return [event(line ?? ranBy(claims), 1), event('é', 2), event('!', 3)]
  }

  function stream(claims: Capability, fault: Fault, signal: AbortSignal): ReadableStream<Uint8Array> {
    let events = eventsOf(claims)
    if (fault === 'bad-sse') events = ['\u0000garbage', 'data: {"half": ', '\n\ndata: [DONE]\n\n']
    if (fault === 'no-usage') events = ['data: {"choices":[]}\n\n']
    if (fault === 'empty-stream') events = []
    if (!['end-without-done', 'empty-stream', 'bad-sse'].includes(String(fault))) events.push('data: [DONE]\n\n')
    const stopAt = fault === 'reset-mid-stream' || fault === 'hang-mid-stream' ? 2 : Number.POSITIVE_INFINITY
    let at = 0
    return new ReadableStream({
      start(sink) {
        if (signal.aborted) sink.error(signal.reason)
        else signal.addEventListener('abort', () => sink.error(signal.reason))
      },
      async pull(sink) {
        if (fault === 'hang-before-first-byte') return new Promise(() => {})
        if (at === stopAt && fault === 'hang-mid-stream') return new Promise(() => {})
        if (at === stopAt) return sink.error(new TypeError('connection reset by internal-host-7'))
        const event = events[at++]
        if (event === undefined) sink.close()
        else sink.enqueue(encoder.encode(event))
      },
    })
  }

  async function fetch(url: string, init: RequestInit): Promise<Response> {
    const { host, pathname } = new URL(url)
    if (pathname === paths.ready) {
      if (readyBase === null) throw new TypeError('connection refused')
      return Response.json({ ready: true, base: readyBase, slots: 4, free: 4 })
    }
    const headers = new Headers(init.headers)
    const token = headers.get('authorization')?.replace('Bearer ', '') ?? ''
    const verified = await jwtVerify(token, encoder.encode(env.CAPABILITY_SECRET), {
      algorithms: [CAPABILITY_ALGORITHM],
      issuer: CAPABILITY_ISSUER,
      audience: CAPABILITY_AUDIENCE,
      // The tests' clock stands still somewhere; lifetime is asserted from the claims instead.
      currentDate: new Date(Number(JSON.parse(atob(token.split('.')[1] ?? '')).iat) * 1000),
    })
    const claims = CapabilityClaims.parse(verified.payload)
    const body = schemaOf(pathname).parse(JSON.parse(String(init.body)))
    const signal = init.signal ?? new AbortController().signal
    seen.push({ host, path: pathname, headers, claims, body, signal })

    const fault = faults.get(host) ?? 'none'
    if (fault === 'refuse-connection') throw new TypeError('connect ECONNREFUSED internal-host-7')
    if (fault === 'redirect') return new Response(null, { status: 302, headers: { location: 'http://evil.test/' } })
    if (typeof fault === 'object') {
      return new Response(JSON.stringify(fault.body ?? { secret: 'internal-host-7' }), {
        status: fault.status,
        headers: fault.headers ?? {},
      })
    }
    if (!('stream' in body) || body.stream !== true) {
      if (fault === 'hang-before-first-byte') {
        // It may have been aborted while the capability was verified.
        if (signal.aborted) throw signal.reason
        return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason)))
      }
      const text =
        fault === 'not-json'
          ? '<html>internal-host-7'
          : JSON.stringify({
              model: claims.model,
              choices: [{ index: 0, text: line ?? ranBy(claims), message: { content: line ?? ranBy(claims) } }],
              ...(pathname === paths.embeddings ? { data: [{ object: 'embedding', index: 0, embedding: [1] }] } : {}),
              ...(fault === 'no-usage' ? {} : { usage: { prompt_tokens: 7, completion_tokens: 3, total_tokens: 10 } }),
            })
      return new Response(text, { headers: { 'content-type': 'application/json', server: 'internal-host-7' } })
    }
    return new Response(stream(claims, fault, signal), {
      headers: { 'content-type': 'text/event-stream; charset=utf-8', server: 'internal-host-7', 'set-cookie': 'a=b' },
    })
  }

  return {
    seen,
    fetch,
    fail: (host: string, fault: Fault) => void faults.set(host, fault),
    fails: (host: string) => (faults.get(host) ?? 'none') !== 'none',
    say: (text: string | null) => {
      line = text
    },
    becomeReady: (base: string | null) => {
      readyBase = base
    },
  }
}
