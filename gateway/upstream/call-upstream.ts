// One request to a backend, with a second backend as reserve until the first byte has come, and never after it.

import * as z from 'zod'
import type { World } from '../context.ts'
import { GatewayError, upstreamError } from '../errors.ts'
import { log } from '../log.ts'
import type { Backend } from '../policy/policy.ts'
import { concat } from '../read-body.ts'
import { abandon } from './abandon.ts'

/** The first and one reserve: more would multiply the load of an outage. */
const MAX_ATTEMPTS = 2
/** Far above the longest answer; an isolate has 128 MB. */
const MAX_ANSWER_BYTES = 8 << 20
const MAX_ERROR_BYTES = 16 << 10
const MAX_MESSAGE_CHARS = 500

export interface Upstream {
  readonly path: string
  readonly body: string
  readonly stream: boolean
  readonly capability: string
  readonly requestId: string
  readonly traceparent: string
  /** The caller's: aborts when the caller hangs up. */
  readonly signal: AbortSignal
}

export type Answer =
  | { readonly kind: 'whole'; readonly bytes: Uint8Array }
  | {
      readonly kind: 'stream'
      readonly first: Uint8Array
      readonly reader: ReadableStreamDefaultReader<Uint8Array>
      /** Stops the backend. */
      readonly controller: AbortController
    }

/** The caller hung up: nobody reads what this turns into. */
export const callerGone = () =>
  new GatewayError(408, { message: 'The request was aborted.', type: 'api_error', code: 'aborted' })

async function readCapped(response: Response, maxBytes: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  let length = 0
  const reader: ReadableStreamDefaultReader<Uint8Array> | undefined = response.body?.getReader()
  for (;;) {
    const next = await reader?.read()
    if (next === undefined || next.done) break
    length += next.value.length
    if (length > maxBytes) {
      abandon(reader)
      throw upstreamError(502, 'upstream_invalid')
    }
    chunks.push(next.value)
  }
  return concat(chunks, length)
}

const UpstreamErrorBody = z.object({
  error: z.object({ message: z.string(), param: z.string().nullish(), code: z.string().nullish() }),
})

/** An upstream's refusal, built anew: its words where it blames the request, none where it blames itself or us. */
async function refusal(response: Response): Promise<GatewayError> {
  const wait = response.headers.get('retry-after') ?? ''
  const headers = /^\d{1,5}$/.test(wait) ? { 'retry-after': wait } : undefined
  if (response.status === 429) {
    abandon(response.body)
    const message = 'The model is busy. Retry after a pause.'
    return new GatewayError(429, { message, type: 'rate_limit_error', code: 'rate_limit_exceeded' }, headers)
  }
  if (response.status === 400 || response.status === 413 || response.status === 422) {
    let parsed: unknown = null
    try {
      parsed = JSON.parse(new TextDecoder().decode(await readCapped(response, MAX_ERROR_BYTES)))
    } catch {
      // Not in our shape: the status alone is passed on.
    }
    const { data } = UpstreamErrorBody.safeParse(parsed)
    return new GatewayError(response.status, {
      message: data?.error.message.slice(0, MAX_MESSAGE_CHARS) ?? 'The model refused the request.',
      type: 'invalid_request_error',
      param: data?.error.param ?? null,
      code: data?.error.code ?? null,
    })
  }
  abandon(response.body)
  return response.status === 503
    ? upstreamError(503, 'upstream_failed', headers)
    : upstreamError(502, 'upstream_failed')
}

async function attempt(world: World, backend: Backend, request: Upstream): Promise<Answer> {
  const controller = new AbortController()
  const onCallerGone = () => controller.abort()
  request.signal.addEventListener('abort', onCallerGone, { once: true })
  let timedOut = false
  const limitMs = request.stream ? world.timeouts.firstByteMs : world.timeouts.wholeAnswerMs
  const timer = setTimeout(() => {
    timedOut = true
    controller.abort()
  }, limitMs)
  try {
    const response = await world.fetch(new URL(request.path, backend.url).href, {
      method: 'POST',
      // Built here, whole: nothing of the caller's headers goes upstream, least of all the key.
      headers: {
        authorization: `Bearer ${request.capability}`,
        'content-type': 'application/json',
        accept: request.stream ? 'text/event-stream' : 'application/json',
        'x-request-id': request.requestId,
        traceparent: request.traceparent,
      },
      body: request.body,
      // A redirect would let a backend choose where the capability goes next.
      redirect: 'manual',
      signal: controller.signal,
    })
    if (response.status !== 200) throw await refusal(response)
    const type = response.headers.get('content-type')?.split(';')[0]?.trim()
    if (type !== (request.stream ? 'text/event-stream' : 'application/json') || response.body === null) {
      abandon(response.body)
      throw upstreamError(502, 'upstream_invalid')
    }
    if (!request.stream) return { kind: 'whole', bytes: await readCapped(response, MAX_ANSWER_BYTES) }
    const reader: ReadableStreamDefaultReader<Uint8Array> = response.body.getReader()
    const first = await reader.read()
    if (first.done) throw upstreamError(502, 'upstream_invalid')
    return { kind: 'stream', first: first.value, reader, controller }
  } catch (error) {
    controller.abort()
    if (request.signal.aborted) throw callerGone()
    if (timedOut) throw upstreamError(503, 'upstream_timeout')
    if (error instanceof GatewayError) throw error
    throw upstreamError(502, 'upstream_failed')
  } finally {
    clearTimeout(timer)
    request.signal.removeEventListener('abort', onCallerGone)
  }
}

/** A request that is itself at fault fails the same way everywhere. */
const isWorthAnother = (error: unknown) =>
  error instanceof GatewayError && (error.status === 429 || error.status === 502 || error.status === 503)

export async function callUpstream(world: World, backends: readonly Backend[], request: Upstream): Promise<Answer> {
  let failure: unknown
  for (const backend of backends.slice(0, MAX_ATTEMPTS)) {
    if (request.signal.aborted) throw callerGone()
    try {
      return await attempt(world, backend, request)
    } catch (error) {
      failure = error
      const code = error instanceof GatewayError ? error.message : 'unknown'
      log('upstream.failed', { requestId: request.requestId, backend: backend.id, code })
      if (!isWorthAnother(error)) break
    }
  }
  throw failure ?? upstreamError(503, 'no_backend')
}
