// What the gateway did, as Prometheus counts it. Everything comes from the spans of requests, so that traces and metrics cannot
// tell two stories; every label has a bounded number of values, whoever asks for what.
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'
import type { World } from '../../gateway/context.ts'
import { phaseOf } from '../../gateway/upstream/breaker.ts'
import { allWatched } from '../../gateway/upstream/watch-backends.ts'
import type { Span } from '../../telemetry/span.ts'

/** Reasons that have a series of their own; what a backend or a bug makes up is `other`. */
const REASONS: ReadonlySet<string> = new Set([
  'aborted',
  'context_length_exceeded',
  'database_unavailable',
  'gateway_misconfigured',
  'idempotency_in_progress',
  'idempotency_key_reused',
  'idempotency_not_replayable',
  'insufficient_quota',
  'internal_error',
  'invalid_api_key',
  'invalid_json',
  'invalid_mix',
  'invalid_value',
  'issuer_unavailable',
  'model_not_found',
  'no_backend',
  'not_found',
  'price_missing',
  'rate_limit_exceeded',
  'request_too_large',
  'unknown_parameter',
  'unrecognized_keys',
  'unsupported_media_type',
  'upstream_failed',
  'upstream_interrupted',
  'upstream_invalid',
  'upstream_refused',
  'upstream_timeout',
  'wrong_key_class',
])
/** From a decision in memory to the longest answer that is waited for. */
const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]
const DATABASE_SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5]
const BREAKER = { closed: 0, 'half-open': 1, open: 2 } as const

const reasonOf = (span: Span): string => {
  const type = span.attributes['error.type'] ?? 'other'
  return REASONS.has(type) ? type : 'other'
}
const secondsOf = ({ startMs, endMs = startMs }: Span): number => Math.max(0, endMs - startMs) / 1000

export interface SpanCounter {
  readonly contentType: string
  text(): Promise<string>
  onSpans(spans: readonly Span[]): void
  onQuery(kind: 'read' | 'write', seconds: number, failed: boolean): void
  /** Whose backends are watched. */
  watch(world: World): void
}

export function createSpanCounter(): SpanCounter {
  const registry = new Registry()
  const registers = [registry]
  collectDefaultMetrics({ register: registry })
  const counter = <L extends string>(name: string, help: string, labelNames: L[]) =>
    new Counter({ name: `sidepath_gateway_${name}`, help, labelNames, registers })
  const histogram = <L extends string>(name: string, help: string, labelNames: L[], buckets = SECONDS) =>
    new Histogram({ name: `sidepath_gateway_${name}`, help, labelNames, buckets, registers })
  const requests = counter('requests_total', 'Requests by class of route and status.', ['route', 'status'])
  const took = histogram('request_seconds', 'Until all that a request owed is done.', ['route'])
  const refused = counter('refusals_total', 'Requests that ended in an error, by its code.', ['reason'])
  const decided = counter('decisions_total', 'Whether a model was granted.', ['outcome'])
  const admitted = counter('admissions_total', 'Granted requests by what their limits said.', ['outcome'])
  const ended = counter('answers_total', 'Dispatched requests by how they ended.', ['outcome'])
  const tokens = counter('tokens_total', 'Tokens that backends counted.', ['kind'])
  const upstream = histogram('upstream_seconds', 'A try of a backend, to its end.', ['outcome'])
  const firstByte = histogram('time_to_first_byte_seconds', 'Until an answer began.', [])
  const queries = histogram('database_seconds', 'Statements and batches.', ['kind'], DATABASE_SECONDS)
  const failures = counter('database_failures_total', 'Statements and batches that failed.', ['kind'])
  const worlds: World[] = []
  new Gauge({
    name: 'sidepath_gateway_breaker_state',
    help: 'Of each backend that was asked: 0 closed, 1 on trial, 2 open.',
    labelNames: ['backend'],
    registers,
    collect() {
      this.reset()
      for (const world of worlds) {
        for (const [id, { breaker }] of allWatched(world)) {
          this.set({ backend: id }, BREAKER[phaseOf(breaker, world.now())])
        }
      }
    },
  })

  const count = (span: Span, root: Span) => {
    const { name } = span.of
    if (name === 'decide')
      decided.inc({ outcome: isDenied(span, root) ? 'denied' : span.isError ? 'failed' : 'granted' })
    if (name === 'admit') admitted.inc({ outcome: span.isError ? reasonOf(root) : 'admitted' })
    if (name === 'upstream') upstream.observe({ outcome: span.isError ? reasonOf(span) : 'ok' }, secondsOf(span))
    if (name !== 'settle') return
    const { attributes } = span
    ended.inc({ outcome: attributes['sidepath.outcome'] ?? 'other' })
    tokens.inc({ kind: 'prompt' }, attributes['gen_ai.usage.input_tokens'] ?? 0)
    tokens.inc({ kind: 'completion' }, attributes['gen_ai.usage.output_tokens'] ?? 0)
  }

  return {
    contentType: registry.contentType,
    text: () => registry.metrics(),
    onSpans([root, ...others]) {
      if (root === undefined) return
      const { 'http.route': route = 'other', 'http.response.status_code': status = 0 } = root.attributes
      requests.inc({ route, status })
      took.observe({ route }, secondsOf(root))
      if (root.isError) refused.inc({ reason: reasonOf(root) })
      const began = root.events.find(({ name }) => name === 'first byte')
      if (began !== undefined) firstByte.observe(Math.max(0, began.atMs - root.startMs) / 1000)
      for (const span of others) count(span, root)
    },
    onQuery(kind, seconds, failed) {
      queries.observe({ kind }, seconds)
      if (failed) failures.inc({ kind })
    },
    watch: (world) => void worlds.push(world),
  }
}

/** The decision itself ended well: that there is no such model for this caller is what was decided. */
const isDenied = (span: Span, root: Span): boolean =>
  !span.isError && root.attributes['error.type'] === 'model_not_found'
