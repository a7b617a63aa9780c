// A coarse bound on what one address, and one key, may send, by Cloudflare's rate-limit bindings where they are there. It keeps
// floods from the database, and counts in each location alone; who may use how much is decided behind it, exactly. So where a
// binding fails the request goes on, and the log says so.
import { createMiddleware } from 'hono/factory'
import type { RateLimitBinding } from './config.ts'
import type { GatewayEnv, Principal } from './context.ts'
import { GatewayError } from './errors.ts'
import { errorFields, log } from './log.ts'

/** As long as the bindings' period in wrangler.toml. */
const PERIOD_S = 10

const flooded = () =>
  new GatewayError(
    429,
    { message: `Too many requests. Retry after ${PERIOD_S} s.`, type: 'rate_limit_error', code: 'rate_limit_exceeded' },
    { 'retry-after': String(PERIOD_S), 'x-should-retry': 'true' },
  )

/** In front of everything: an address that floods costs no query. Cloudflare tells the address, whatever the caller sent. */
export const boundAddress = createMiddleware<GatewayEnv>(async (c, next) => {
  const { FLOOD_BY_ADDRESS: binding } = c.env
  const address = c.req.header('cf-connecting-ip')
  if (binding !== undefined && address !== undefined) await check(binding, address)
  await next()
})

/** Behind the guard: were a key counted before it is proven, whoever knows its id could use up its share. */
export const boundKey = createMiddleware<GatewayEnv>(async (c, next) => {
  const { FLOOD_BY_KEY: binding } = c.env
  const principal = c.get('principal')
  if (binding !== undefined && principal !== undefined) {
    await check(binding, nameOf(principal))
  }
  await next()
})

function nameOf(principal: Principal): string {
  if (principal.class === 'admin') return principal.keyId
  const { keyId, tenantId, userId } = principal.policy.subject
  return keyId ?? JSON.stringify([tenantId, userId])
}

async function check(binding: RateLimitBinding, key: string): Promise<void> {
  let isWithin = true
  try {
    isWithin = (await binding.limit({ key })).success
  } catch (error) {
    log('flood.unchecked', errorFields(error))
  }
  if (!isWithin) throw flooded()
}
