// W3C Trace Context: which trace a request belongs to, and the header that says so to the next tier.

/** Version 00, and neither of the ids all zeros. */
const TRACEPARENT = /^00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})$/
const SAMPLED = 1

export interface TraceContext {
  readonly traceId: string
  /** The caller's span. */
  readonly parentId: string
  /** Two hex digits, as they came. */
  readonly flags: string
}

export function parseTraceparent(header: string | null | undefined): TraceContext | undefined {
  const [, traceId, parentId, flags] = TRACEPARENT.exec(header ?? '') ?? []
  if (traceId === undefined || parentId === undefined || flags === undefined) return undefined
  return { traceId, parentId, flags }
}

export const formatTraceparent = (traceId: string, spanId: string, flags: string): string =>
  `00-${traceId}-${spanId}-${flags}`

export const isSampled = ({ flags }: TraceContext): boolean => (Number.parseInt(flags, 16) & SAMPLED) === SAMPLED

/** A random UUID's digits: six of its 128 bits are fixed, and the platform keeps a store of those, unlike of bytes. */
export const newTraceId = (): string => crypto.randomUUID().replaceAll('-', '')
export const newSpanId = (): string => newTraceId().slice(16)
