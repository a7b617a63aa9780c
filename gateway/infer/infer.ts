// The inference routes: parse, choose, open the meter, sign, dispatch, relay, settle.
import { CapabilityClaims } from '../../gpu-backend/contract.ts'
import { traced } from '../../telemetry/trace.ts'
import { type GatewayContext, userPolicy } from '../context.ts'
import { fromDatabase } from '../database/from-database.ts'
import { GatewayError, modelNotFound, upstreamError } from '../errors.ts'
import { refusedInWhole, watchRefusal } from '../experiment/detect-refusal.ts'
import { followExposure } from '../experiment/follow-exposure.ts'
import { mirrorRequest, type Send } from '../experiment/mirror-request.ts'
import { boundTokens } from '../limits/bound-tokens.ts'
import { autoModels } from '../policy/auto-models.ts'
import { mayDispatch } from '../policy/policy.ts'
import { type Answer, callUpstream } from '../upstream/call-upstream.ts'
import { pickBackends } from '../upstream/pick-backends.ts'
import { relayStream } from '../upstream/relay-stream.ts'
import { continueTrace } from '../upstream/trace.ts'
import { type Replay, readIdempotencyKey } from '../usage/idempotency.ts'
import { type Meter, openMeter } from '../usage/meter.ts'
import { readEmbeddingTokens, readTokens } from '../usage/read-usage.ts'
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
  const claims = CapabilityClaims.parse({
    act: 'infer',
    tenant: policy.subject.tenantId,
    base: target.baseDigest,
    adapter: target.kind === 'mix' ? claimedAdapter(target) : target.kind === 'adapter' ? target.digest : null,
    model: choice.model,
    maxTokens: policy.registry.maxTokens,
  })
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

/** What was heard of an answer, once it is over. */
interface Heard {
  refused: () => boolean
}

/** After the answer, however it ended, and only where the subject is in an experiment. */
async function follow(c: GatewayContext, { model, exposure }: Choice, meter: Meter, heard: Heard): Promise<void> {
  if (exposure === null) return
  const { subject, registry } = userPolicy(c)
  const serves = registry.models.get(model)?.serves
  const hasGuardrails = serves?.kind === 'experiment' && serves.experiment.guardrails.length > 0
  await meter.settled
  await followExposure(c, { tenantId: subject.tenantId, exposure, hasGuardrails, refused: heard.refused() })
}

async function answer(
  c: GatewayContext,
  endpoint: Endpoint,
  request: InferRequest,
  choice: Choice,
  meter: Meter,
  heard: Heard,
): Promise<Response> {
  const upstream = await dispatch(c, endpoint, request, choice, c.req.raw.signal)
  meter.firstByte()
  const headers = {
    'content-type': upstream.kind === 'stream' ? 'text/event-stream' : 'application/json',
    'x-sidepath-receipt': meter.receipt,
  }
  if (upstream.kind === 'whole') {
    const { text, value } = readWhole(upstream.bytes)
    heard.refused = () => refusedInWhole(value)
    const tokens = endpoint === 'embeddings' ? readEmbeddingTokens(value) : readTokens(value)
    const settling = meter.settle('settled', tokens, text)
    // Waited for only where the answer is kept for another try: the row is there since before the backend was asked.
    if (c.req.raw.headers.has('idempotency-key')) await settling
    return new Response(upstream.bytes, { headers })
  }
  const watch = choice.exposure === null ? undefined : watchRefusal()
  if (watch !== undefined) heard.refused = watch.refused
  const body = relayStream(upstream, {
    idleMs: c.get('world').timeouts.idleMs,
    signal: c.req.raw.signal,
    watch,
    onEnd: (outcome, tokens) => void meter.settle(outcome, tokens),
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
  const choice = await traced(trace, 'decide', () => fromDatabase(() => chooseTarget(db, policy, request.model, now())))
  if (choice === undefined) throw modelNotFound()
  const bound = () => boundTokens(request.fields, policy.registry.maxTokens)
  const idempotent = await readIdempotencyKey(c.req.raw.headers, policy.subject, request, choice)
  const opened = await traced(trace, 'admit', () =>
    fromDatabase(() => openMeter(db, { policy, choice, requestId, bound, idempotent }, now)),
  )
  if ('answer' in opened) return answerAgain(opened)
  const meter = watchMeter(trace, opened, { tenant: policy.subject.tenantId, model: choice.model })
  // Keeps the isolate until the row is settled, also when the caller is gone.
  c.executionCtx.waitUntil(meter.settled)
  const heard: Heard = { refused: () => false }
  c.executionCtx.waitUntil(follow(c, choice, meter, heard))
  const { exposure, model, shadows } = choice
  if (exposure !== null && shadows.length > 0) {
    const copied = { tenantId: policy.subject.tenantId, requestId: c.get('requestId'), assignment: exposure }
    const send: Send = ({ target }, signal) => dispatch(c, endpoint, request, { model, target }, signal)
    c.executionCtx.waitUntil(mirrorRequest(c.get('db'), c.get('world'), copied, shadows, send))
  }
  try {
    return await answer(c, endpoint, request, choice, meter, heard)
  } catch (error) {
    const aborted = c.req.raw.signal.aborted || (error instanceof GatewayError && error.message === 'aborted')
    await meter.settle(aborted ? 'aborted' : 'failed', null)
    throw error
  }
}
