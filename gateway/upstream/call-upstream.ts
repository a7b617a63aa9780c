// One request to a backend, with a second backend as reserve until the first byte has come, and never after it.

import * as z from 'zod'
import type { World } from '../context.ts'
import { GatewayError, upstreamError } from '../errors.ts'
import { log } from '../log.ts'
import type { Backend } from '../policy/policy.ts'
import { concat } from '../read-body.ts'
import { abandon } from './abandon.ts'
import { partsOn, slotName } from './pick-backends.ts'
import { rewriteStream, rewriteWhole } from './rewrite-answer.ts'
import type { Upstream } from './upstream-request.ts'
import { beginRequest, isThere } from './watch-backends.ts'
import { writeRequest } from './write-request.ts'

/** The first and one reserve: more would multiply the load of an outage. */
const MAX_ATTEMPTS = 2
/** Far above the longest answer; an isolate has 128 MB. */
const MAX_ANSWER_BYTES = 8 << 20
const MAX_ERROR_BYTES = 16 << 10
const MAX_MESSAGE_CHARS = 500

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

/** What engines say, each in its own words, where a prompt is too long. */
const TOO_LONG = /context.{0,20}(length|size|window)|maximum.{0,20}(length|tokens)/i

/** The words of a foreign backend may hold its names for models, so only their meaning is passed on. */
function foreignRefusal(status: 400 | 413 | 422, text: string): GatewayError {
  const error = { type: 'invalid_request_error' } as const
  return TOO_LONG.test(text)
    ? new GatewayError(400, {
        ...error,
        message: 'The prompt, with the answer that is asked for, is longer than the context of the model.',
        code: 'context_length_exceeded',
      })
    : new GatewayError(status, { ...error, message: 'The model refused the request.', code: 'upstream_refused' })
}

/** An upstream's refusal, built anew: its words where it blames the request, none where it blames itself or us. */
async function refusal(response: Response, isOurs: boolean): Promise<GatewayError> {
  const wait = response.headers.get('retry-after') ?? ''
  const headers = /^\d{1,5}$/.test(wait) ? { 'retry-after': wait } : undefined
  if (response.status === 429) {
    abandon(response.body)
    const message = 'The model is busy. Retry after a pause.'
    return new GatewayError(429, { message, type: 'rate_limit_error', code: 'rate_limit_exceeded' }, headers)
  }
  if (response.status === 400 || response.status === 413 || response.status === 422) {
    let parsed: unknown = null
    let text = ''
    try {
      text = new TextDecoder().decode(await readCapped(response, MAX_ERROR_BYTES))
      parsed = JSON.parse(text)
    } catch {
      // Not in our shape: the status alone is passed on.
    }
    if (!isOurs) return foreignRefusal(response.status, text)
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

const UNHEALTHY = new Set(['upstream_failed', 'upstream_timeout', 'upstream_invalid'])

/** The backend's fault rather than the request's, or the moment's. */
const isFailure = (error: unknown) => error instanceof GatewayError && UNHEALTHY.has(error.message)

/** What was seen of a request so far. */
interface Tried {
  /**
   * A backend was there and answered it with a failure. Should another one do so too, then it is the request: a reserve
   * that is asked for nothing but such requests would be shut out, and be missing on the day that it is needed.
   */
  answeredByFailure: boolean
}

async function attempt(world: World, backend: Backend, request: Upstream, tried: Tried): Promise<Answer> {
  const { authorization, path, body, rewriting } = writeRequest(backend, request, world.now())
  const isOurs = rewriting === undefined
  const controller = new AbortController()
  const onCallerGone = () => controller.abort()
  request.signal.addEventListener('abort', onCallerGone, { once: true })
  let timedOut = false
  let isConnected = false
  const { connectMs, firstByteMs, wholeAnswerMs } = world.timeouts
  const limitMs = request.stream ? firstByteMs : wholeAnswerMs
  const giveUp = () => {
    timedOut = true
    controller.abort()
  }
  // A wire that is silent is that of a busy backend or of a dead one: asked, only one of them answers.
  const askWhetherThere = async () => {
    timer = setTimeout(giveUp, limitMs - connectMs)
    if (isConnected) return
    const answers = await isThere(world, backend, request.secrets)
    if (!answers && !isConnected) giveUp()
  }
  let timer = connectMs < limitMs ? setTimeout(askWhetherThere, connectMs) : setTimeout(giveUp, limitMs)
  const span = request.trace?.begin('upstream', 'client').set({ 'sidepath.backend': backend.id })
  const record = beginRequest(world, backend, slotName(partsOn(backend, request.claims.adapter) ?? []))
  try {
    const response = await world.fetch(backend.url + backend.prefix + path, {
      method: 'POST',
      // Built here, whole: nothing of the caller's headers goes upstream, least of all the key.
      headers: {
        ...(authorization === undefined ? {} : { authorization }),
        'content-type': 'application/json',
        accept: request.stream ? 'text/event-stream' : 'application/json',
        'x-request-id': request.requestId,
        traceparent: span?.traceparent ?? request.traceparent,
      },
      body,
      // A redirect would let a backend choose where the capability goes next.
      redirect: 'manual',
      signal: controller.signal,
    })
    isConnected = true
    if (response.status !== 200) throw await refusal(response, isOurs)
    const type = response.headers.get('content-type')?.split(';')[0]?.trim()
    if (type !== (request.stream ? 'text/event-stream' : 'application/json') || response.body === null) {
      abandon(response.body)
      throw upstreamError(502, 'upstream_invalid')
    }
    if (!request.stream) {
      const bytes = await readCapped(response, MAX_ANSWER_BYTES)
      const whole = isOurs ? bytes : rewriteWhole(bytes, rewriting)
      record.succeeded()
      record.ended()
      span?.event('first byte')
      span?.end()
      return { kind: 'whole', bytes: whole }
    }
    const source: ReadableStreamDefaultReader<Uint8Array> = response.body.getReader()
    const reader: ReadableStreamDefaultReader<Uint8Array> = isOurs
      ? source
      : rewriteStream(source, rewriting).getReader()
    const first = await reader.read()
    if (first.done) throw upstreamError(502, 'upstream_invalid')
    record.succeeded()
    span?.event('first byte')
    source.closed.then(
      () => {
        record.ended()
        span?.end()
      },
      () => {
        // Not where we stopped it.
        if (!controller.signal.aborted) {
          record.failed()
          span?.fail('upstream_interrupted')
        }
        record.ended()
        span?.end()
      },
    )
    return { kind: 'stream', first: first.value, reader, controller }
  } catch (error) {
    controller.abort()
    record.ended()
    if (request.signal.aborted) {
      span?.fail('aborted')
      span?.end()
      throw callerGone()
    }
    const failure = asUpstreamError(error, timedOut)
    const isAnswer = isConnected && !timedOut
    if (isFailure(failure) && !(isAnswer && tried.answeredByFailure)) record.failed()
    tried.answeredByFailure ||= isAnswer
    span?.fail(failure.body.error.code ?? 'refused')
    span?.end()
    throw failure
  } finally {
    clearTimeout(timer)
    request.signal.removeEventListener('abort', onCallerGone)
  }
}

function asUpstreamError(error: unknown, timedOut: boolean): GatewayError {
  if (timedOut) return upstreamError(503, 'upstream_timeout')
  if (error instanceof GatewayError) return error
  // An answer that came, and is none.
  const isUnreadable = error instanceof SyntaxError || error instanceof z.ZodError
  return upstreamError(502, isUnreadable ? 'upstream_invalid' : 'upstream_failed')
}

/** A request that is itself at fault fails the same way everywhere. */
const isWorthAnother = (error: unknown) =>
  error instanceof GatewayError && (error.status === 429 || error.status === 502 || error.status === 503)

export async function callUpstream(world: World, backends: readonly Backend[], request: Upstream): Promise<Answer> {
  let failure: unknown
  const tried: Tried = { answeredByFailure: false }
  for (const backend of backends.slice(0, MAX_ATTEMPTS)) {
    if (request.signal.aborted) throw callerGone()
    try {
      return await attempt(world, backend, request, tried)
    } catch (error) {
      failure = error
      const code = error instanceof GatewayError ? error.message : 'unknown'
      log('upstream.failed', { requestId: request.requestId, backend: backend.id, code })
      if (!isWorthAnother(error)) break
    }
  }
  throw failure ?? upstreamError(503, 'no_backend')
}
