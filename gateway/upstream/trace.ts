// The trace that a request belongs to (W3C Trace Context): the caller's where there is one, with a span of our own.
import type { Trace } from '../../telemetry/trace.ts'
import { formatTraceparent, newSpanId, newTraceId, parseTraceparent } from '../../telemetry/trace-context.ts'
import { log } from '../log.ts'

/** The header for the backend. Built anew: of the caller's, only an id of 32 hex digits and a flag go on. */
export function continueTrace(given: string | undefined, requestId: string, trace: Trace | undefined): string {
  const callers = parseTraceparent(given)
  const traceId = trace?.root.of.traceId ?? callers?.traceId ?? newTraceId()
  const spanId = trace?.root.spanId ?? newSpanId()
  log('trace', { requestId, traceId, spanId })
  return trace?.root.traceparent ?? formatTraceparent(traceId, spanId, callers?.flags ?? '00')
}
