// The inference routes: parse, choose, open the meter, sign, dispatch, relay, settle.
import { CapabilityClaims } from '../../gpu-backend/contract.ts'
import { type GatewayContext, userPolicy } from '../context.ts'
import { GatewayError, modelNotFound, upstreamError } from '../errors.ts'
import { orderByAffinity } from '../experiment/hash-bucket.ts'
import { mayDispatch } from '../policy/policy.ts'
import { type Answer, callUpstream } from '../upstream/call-upstream.ts'
import { relayStream } from '../upstream/relay-stream.ts'
import { continueTrace } from '../upstream/trace.ts'
import { type Meter, openMeter } from '../usage/meter.ts'
import { readEmbeddingTokens, readTokens, type Tokens } from '../usage/read-usage.ts'
import { claimedAdapter } from './choose-mix.ts'
import { type Choice, chooseTarget } from './choose-target.ts'
import { mintCapability } from './mint-capability.ts'
import { type Endpoint, type InferRequest, parseInferRequest } from './parse-request.ts'

async function dispatch(c: GatewayContext, request: InferRequest, choice: Choice): Promise<Answer> {
  const policy = userPolicy(c)
  const world = c.get('world')
  const requestId = c.get('requestId')
  const { target } = choice
  const claims = CapabilityClaims.parse({
    act: 'infer',
    tenant: policy.subject.tenantId,
    base: target.baseDigest,
    adapter: target.kind === 'mix' ? claimedAdapter(target) : target.kind === 'adapter' ? target.digest : null,
    model: choice.model,
    maxTokens: policy.registry.maxTokens,
  })
  const now = world.now()
  if (claims.model !== request.model.name || !mayDispatch(policy, claims, now)) {
    throw new Error('about to dispatch what was not granted')
  }
  const capability = mintCapability(claims, c.get('config').capabilitySecret, now)
  const { adapter } = claims
  // An adapter keeps to one backend, where it is resident, and so does a mix; bare-base requests spread.
  const backends = orderByAffinity(
    policy.registry.backends.get(claims.base) ?? [],
    adapter === null ? requestId : typeof adapter === 'string' ? adapter : JSON.stringify(adapter),
  )
  const { path, body, stream } = request
  const traceparent = continueTrace(c.req.header('traceparent'), requestId)
  const { signal } = c.req.raw
  return callUpstream(world, backends, { path, body, stream, capability, requestId, traceparent, signal })
}

function readWhole(bytes: Uint8Array, endpoint: Endpoint): Tokens | null {
  const read = endpoint === 'embeddings' ? readEmbeddingTokens : readTokens
  try {
    return read(JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)))
  } catch {
    throw upstreamError(502, 'upstream_invalid')
  }
}

async function answer(
  c: GatewayContext,
  endpoint: Endpoint,
  request: InferRequest,
  choice: Choice,
  meter: Meter,
): Promise<Response> {
  const upstream = await dispatch(c, request, choice)
  meter.firstByte()
  const headers = {
    'content-type': upstream.kind === 'stream' ? 'text/event-stream' : 'application/json',
    'x-sidepath-receipt': meter.receipt,
  }
  if (upstream.kind === 'whole') {
    const tokens = readWhole(upstream.bytes, endpoint)
    // Not waited for, as at the end of a stream: the row is there since before the backend was asked.
    void meter.settle('settled', tokens)
    return new Response(upstream.bytes, { headers })
  }
  const body = relayStream(upstream, {
    idleMs: c.get('world').timeouts.idleMs,
    signal: c.req.raw.signal,
    onEnd: (outcome, tokens) => void meter.settle(outcome, tokens),
  })
  return new Response(body, { headers })
}

export async function infer(c: GatewayContext, endpoint: Endpoint): Promise<Response> {
  const policy = userPolicy(c)
  const { now } = c.get('world')
  const request = await parseInferRequest(c.req.raw, endpoint)
  const choice = await chooseTarget(c.get('db'), policy, request.model, now())
  if (choice === undefined) throw modelNotFound()
  const meter = await openMeter(c.get('db'), policy, choice, c.get('requestId'), now)
  // Keeps the isolate until the row is settled, also when the caller is gone.
  c.executionCtx.waitUntil(meter.settled)
  try {
    return await answer(c, endpoint, request, choice, meter)
  } catch (error) {
    const aborted = c.req.raw.signal.aborted || (error instanceof GatewayError && error.message === 'aborted')
    await meter.settle(aborted ? 'aborted' : 'failed', null)
    throw error
  }
}
