// Spans of a generation: for each row, where its time went until its first token, and then until its last.
import type { Context } from 'hono'
import type { Exporter } from '../../telemetry/otlp.ts'
import type { Span } from '../../telemetry/span.ts'
import { Trace } from '../../telemetry/trace.ts'
import { isSampled, newTraceId } from '../../telemetry/trace-context.ts'
import type { Env } from './env.ts'
import type { Indexed } from './run-choices.ts'

/** Milliseconds since 1970, as the engine's thread counts them too, and finer than a millisecond. */
const preciseNow = (): number => performance.timeOrigin + performance.now()

export interface TracedRows {
  /** In the order in which they come. */
  piece(indexed: Indexed): void
  /** `outcome`: as the log has it. */
  end(outcome: string, tokens: { readonly prompt: number; readonly completion: number }): void
}

/**
 * Undefined where nobody looks, or the caller does not want it. Only after the capability was verified: the flag is then that
 * of the gateway.
 */
export function traceRows(exporter: Exporter | undefined, context: Context<Env>): TracedRows | undefined {
  const caller = context.get('trace')
  const traceId = caller?.traceId ?? newTraceId()
  if (exporter === undefined) return undefined
  if (caller === undefined ? !exporter.isSampled(traceId) : !isSampled(caller)) return undefined
  const trace = new Trace({
    // One of three: the router has found it.
    name: `POST ${context.req.path}`,
    traceId,
    parentId: caller?.parentId,
    flags: '01',
    now: preciseNow,
    onEnd(spans) {
      exporter.add(spans)
      exporter.flushSoon(() => {})
    },
  })
  const decoding = new Map<number, Span>()
  return {
    piece({ index, piece: { began, ids, finish } }) {
      const now = preciseNow()
      if (began !== undefined) {
        const { queuedMs, loadingMs, admittedMs } = began
        trace.begin('queue', 'internal', queuedMs).end(loadingMs ?? admittedMs)
        if (loadingMs !== null) trace.begin('load', 'internal', loadingMs).end(admittedMs)
      }
      if (ids.length > 0 && !decoding.has(index)) {
        trace.root.event('first token')
        if (began !== undefined) trace.begin('prefill', 'internal', began.admittedMs).end(now)
        decoding.set(index, trace.begin('decode', 'internal', now))
      }
      if (finish !== undefined) decoding.get(index)?.end(now)
    },
    end(outcome, { prompt, completion }) {
      if (outcome !== 'stop' && outcome !== 'length') trace.root.fail(outcome)
      trace.end({
        'sidepath.request_id': context.get('requestId'),
        'sidepath.tenant': context.get('capability').tenant,
        'sidepath.model': context.get('capability').model,
        'sidepath.outcome': outcome,
        'gen_ai.usage.input_tokens': prompt,
        'gen_ai.usage.output_tokens': completion,
      })
    },
  }
}
