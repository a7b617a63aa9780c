// The inference routes: parse, choose, open the meter, sign, dispatch, relay, settle.
import type { Capability } from '../../gpu-backend/contract.ts'
import { traced } from '../../telemetry/trace.ts'
import { type GatewayContext, userPolicy } from '../context.ts'
import { fromDatabase } from '../database/from-database.ts'
import { GatewayError, modelNotFound, upstreamError } from '../errors.ts'
import { refusedInWhole, watchRefusal } from '../experiment/detect-refusal.ts'
import { followExposure, isWorthFollowing } from '../experiment/follow-exposure.ts'
import { mirrorRequest, type Send } from '../experiment/mirror-request.ts'
import { hardHeaders } from '../harden-response.ts'
import { boundTokens } from '../limits/bound-tokens.ts'
import { autoModels } from '../policy/auto-models.ts'
import { mayDispatch } from '../policy/policy.ts'
import { type Answer, callUpstream } from '../upstream/call-upstream.ts'
import { pickBackends } from '../upstream/pick-backends.ts'
import { relayStream } from '../upstream/relay-stream.ts'
import { continueTrace } from '../upstream/trace.ts'
import { type Replay, readIdempotencyKey } from '../usage/idempotency.ts'
import { type Meter, type Outcome, openMeter } from '../usage/meter.ts'
import { readEmbeddingTokens, readTokens, type Tokens } from '../usage/read-usage.ts'
import { watchMeter } from '../usage/watch-meter.ts'
import { claimedAdapter } from './choose-mix.ts'
import { type Choice, chooseTarget } from './choose-target.ts'
import { mintCapability } from './mint-capability.ts'
import { type Endpoint, type InferRequest, parseInferRequest } from './parse-request.ts'

async function dispatch(
  c: GatewayContext,
  endpoint: Endpoint,
  request: InferRequest,
  choice: Pick<Choice, 'model' | 'target'>,
  signal: AbortSignal,
): Promise<Answer> {
  const policy = userPolicy(c)
  const world = c.get('world')
  const requestId = c.get('requestId')
  const { target } = choice
  const trace = c.get('trace')
  const claims: Capability = {
    act: 'infer',
    tenant: policy.subject.tenantId,
    base: target.baseDigest,
    adapter: target.kind === 'mix' ? claimedAdapter(target) : target.kind === 'adapter' ? target.digest : null,
    model: choice.model,
    maxTokens: policy.registry.maxTokens,
  }
  const now = world.now()
  const asked = request.model.name
  const leadsTo = asked === claims.model || autoModels(policy.registry, asked).some(({ name }) => name === claims.model)
  if (!leadsTo || !mayDispatch(policy, claims, now)) {
    throw new Error('about to dispatch what was not granted')
  }
  const capability = mintCapability(claims, c.get('config').capabilitySecret, now)
  const backends = pickBackends(
    world,
    policy.registry.backends.get(claims.base) ?? [],
    { endpoint, adapter: claims.adapter, requestId },
    c.env,
    (work) => c.executionCtx.waitUntil(work),
  )
  return callUpstream(world, backends, {
    ...request,
    endpoint,
    claims,
    capability,
    secrets: c.env,
    saltKey: c.get('config').capabilitySecret,
    requestId,
    traceparent: continueTrace(c.req.header('traceparent'), requestId, trace),
    trace,
    signal,
  })
}

function readWhole(bytes: Uint8Array): { readonly text: string; readonly value: unknown } {
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
    return { text, value: JSON.parse(text) }
  } catch {
    throw upstreamError(502, 'upstream_invalid')
  }
}

/** Settles a request, once, and looks after the experiment that it was part of. */
type End = (outcome: Outcome, tokens: Tokens | null, refused: () => boolean, answer?: string) => void

function endOf(c: GatewayContext, { model, exposure }: Choice, meter: Meter): End {
  let hasEnded = false
  return (outcome, tokens, refused, text) => {
    if (hasEnded) return
    hasEnded = true
    meter.settle(outcome, tokens, text)
    if (exposure === null) return
    const { subject, registry } = userPolicy(c)
    const serves = registry.models.get(model)?.serves
    const hasGuardrails = serves?.kind === 'experiment' && serves.experiment.guardrails.length > 0
    const followed = { tenantId: subject.tenantId, exposure, hasGuardrails, refused: refused() }
    // Rarely: a row of its own hangs on the row of the request.
    if (isWorthFollowing(c.get('requestId'), followed)) {
      c.executionCtx.waitUntil(meter.written().then(() => followExposure(c, followed)))
    }
  }
}

const notRefused = () => false

async function answer(
  c: GatewayContext,
  endpoint: Endpoint,
  request: InferRequest,
  choice: Choice,
  meter: Meter,
  end: End,
): Promise<Response> {
  const upstream = await dispatch(c, endpoint, request, choice, c.req.raw.signal)
  meter.firstByte()
  const headers = hardHeaders(c, {
    'content-type': upstream.kind === 'stream' ? 'text/event-stream' : 'application/json',
    'x-sidepath-receipt': meter.receipt,
  })
  if (upstream.kind === 'whole') {
    const { text, value } = readWhole(upstream.bytes)
    const tokens = endpoint === 'embeddings' ? readEmbeddingTokens(value) : readTokens(value)
    end('settled', tokens, () => refusedInWhole(value), text)
    // Waited for only where the answer is kept for another try.
    if (c.req.raw.headers.has('idempotency-key')) await meter.written()
    return new Response(upstream.bytes, { headers })
  }
  const watch = choice.exposure === null ? undefined : watchRefusal()
  const { promise: ended, resolve } = Promise.withResolvers<void>()
  // Keeps the isolate until the row is written, also when the caller is gone.
  c.executionCtx.waitUntil(ended.then(() => meter.written()))
  const body = relayStream(upstream, {
    idleMs: c.get('world').timeouts.idleMs,
    signal: c.req.raw.signal,
    watch,
    onEnd: (outcome, tokens) => {
      end(outcome, tokens, watch?.refused ?? notRefused)
      resolve()
    },
  })
  return new Response(body, { headers })
}

function answerAgain({ answer, receipt }: Replay): Response {
  const headers = { 'content-type': 'application/json', 'x-sidepath-receipt': receipt, 'idempotent-replayed': 'true' }
  return new Response(answer, { headers })
}

export async function infer(c: GatewayContext, endpoint: Endpoint): Promise<Response> {
  const policy = userPolicy(c)
  const { now } = c.get('world')
  const request = await parseInferRequest(c.req.raw, endpoint)
  const db = c.get('db')
  const requestId = c.get('requestId')
  const trace = c.get('trace')
  const keep = (work: Promise<unknown>) => c.executionCtx.waitUntil(work)
  const choice = await traced(trace, 'decide', () => fromDatabase(() => chooseTarget(db, policy, request.model, now())))
  if (choice === undefined) throw modelNotFound()
  const bound = () => boundTokens(request.fields, policy.registry.maxTokens)
  const idempotent = readIdempotencyKey(c.req.raw.headers, policy.subject, request, choice)
  const books = { ledger: c.get('ledger'), db, sql: c.get('config').db, now, keep }
  const opened = await traced(trace, 'admit', () => openMeter(books, { policy, choice, requestId, bound, idempotent }))
  if ('answer' in opened) return answerAgain(opened)
  const meter = watchMeter(trace, opened, { tenant: policy.subject.tenantId, model: choice.model })
  const end = endOf(c, choice, meter)
  const { exposure, model, shadows } = choice
  if (exposure !== null && shadows.length > 0) {
    const copied = { tenantId: policy.subject.tenantId, requestId: c.get('requestId'), assignment: exposure }
    const send: Send = ({ target }, signal) => dispatch(c, endpoint, request, { model, target }, signal)
    keep(meter.written().then(() => mirrorRequest(db, c.get('world'), copied, shadows, send)))
  }
  try {
    return await answer(c, endpoint, request, choice, meter, end)
  } catch (error) {
    const aborted = c.req.raw.signal.aborted || (error instanceof GatewayError && error.message === 'aborted')
    end(aborted ? 'aborted' : 'failed', null, notRefused)
    throw error
  }
}
