// The trace that a request belongs to, as W3C Trace Context passes it on: for the log, so that tiers can be joined.

/** Version 00, and neither of the ids all zeros. */
const TRACEPARENT = /^00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}$/

export interface Trace {
  readonly traceId: string
  /** The caller's span. */
  readonly parentId: string
}

export function readTrace(header: string | undefined): Trace | undefined {
  const [, traceId, parentId] = TRACEPARENT.exec(header ?? '') ?? []
  return traceId === undefined || parentId === undefined ? undefined : { traceId, parentId }
}
