// The guard in front of every route: a live key of the right class, or nothing. Public routes are listed here.
import { createMiddleware } from 'hono/factory'
import type { GatewayContext, GatewayEnv, Principal } from '../context.ts'
import { invalidApiKey, wrongKeyClass } from '../errors.ts'
import { loadAdminKey, loadPolicy } from '../policy/load-policy.ts'
import { parseKey } from './key-format.ts'
import { verifyKey } from './keys.ts'

/** Exact paths that answer without a key. */
export const PUBLIC_PATHS: readonly string[] = ['/healthz']
const ADMIN_PREFIX = '/admin/'

async function authenticate(c: GatewayContext): Promise<Principal> {
  const { peppers, environment } = c.get('config')
  const header = c.req.raw.headers.get('authorization')
  const text = header?.startsWith('Bearer ') ? header.slice('Bearer '.length) : ''
  const keyId = parseKey(text, environment)
  if (keyId === null) throw invalidApiKey()

  const now = c.get('world').now()
  const db = c.get('db')
  const needed = c.req.path.startsWith(ADMIN_PREFIX) ? 'admin' : 'user'
  const loaded =
    needed === 'admin' ? { key: await loadAdminKey(db, keyId, now), policy: null } : await loadPolicy(db, keyId, now)
  const key = loaded?.key
  const verified = await verifyKey(text, key, peppers)
  if (!verified || !key?.live) throw invalidApiKey()
  // Only a proven key is told that it is of the wrong class.
  if (key.class !== needed) throw wrongKeyClass()
  if (needed === 'admin') return { class: 'admin', keyId }
  if (!loaded?.policy) throw invalidApiKey()
  return { class: 'user', policy: loaded.policy }
}

export const guard = createMiddleware<GatewayEnv>(async (c, next) => {
  if (!PUBLIC_PATHS.includes(c.req.path)) c.set('principal', await authenticate(c))
  await next()
})
