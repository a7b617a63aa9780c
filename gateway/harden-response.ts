// What every answer carries, and nothing else: our request id, no sniffing, no framing, no caching, no CORS.
import { createMiddleware } from 'hono/factory'
import type { GatewayContext, GatewayEnv } from './context.ts'
import { log } from './log.ts'

const POLICY = 'content-security-policy'

const ALWAYS = {
  // no-transform: a proxy that compresses an event stream also holds it back.
  'cache-control': 'no-store, no-transform',
  [POLICY]: "default-src 'none'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
  'strict-transport-security': 'max-age=31536000',
  'x-content-type-options': 'nosniff',
} as const

/** For an answer that is made with all its headers at once, which is cheaper than to add to them. */
export function hardHeaders(c: GatewayContext, own: Readonly<Record<string, string>>): Record<string, string> {
  c.set('isHard', true)
  return { ...own, ...ALWAYS, 'x-request-id': c.get('requestId') }
}

export const hardenResponse = createMiddleware<GatewayEnv>(async (c, next) => {
  // Ours, always: an id that a caller chose could be made to match another request's.
  const requestId = crypto.randomUUID()
  c.set('requestId', requestId)
  const startedAt = c.get('world').now()
  await next()
  if (!c.get('isHard') || c.error !== undefined) {
    // The page of the reference has one of its own, as strict.
    const policy = c.res.headers.get(POLICY)
    for (const [name, value] of Object.entries(ALWAYS)) c.res.headers.set(name, value)
    if (policy !== null) c.res.headers.set(POLICY, policy)
    c.res.headers.set('x-request-id', requestId)
  }
  const durationMs = c.get('world').now() - startedAt
  // Not the URL: a query string may hold what a caller should not have put there.
  log('request', { requestId, method: c.req.method, status: c.res.status, durationMs })
})
