// The trace that a request belongs to (W3C Trace Context): the caller's where there is one, with a span of our own.
import { log } from '../log.ts'

/** Version 00, and neither of the ids all zeros. */
const TRACEPARENT = /^00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})$/

/** A random UUID's digits: six of its 128 bits are fixed, and the platform keeps a store of those, unlike of bytes. */
const randomDigits = () => crypto.randomUUID().replaceAll('-', '')

/** The header for the backend. Built anew: of the caller's, only an id of 32 hex digits and a flag go on. */
export function continueTrace(given: string | undefined, requestId: string): string {
  const [, callers, callersFlags] = TRACEPARENT.exec(given ?? '') ?? []
  const traceId = callers ?? randomDigits()
  const spanId = randomDigits().slice(16)
  log('trace', { requestId, traceId, spanId })
  return `00-${traceId}-${spanId}-${callersFlags ?? '00'}`
}
