// The guard in front of every route: a live credential of the right class, or nothing. Public routes are listed here.
import { sql } from 'drizzle-orm'
import { createMiddleware } from 'hono/factory'
import { traced } from '../../telemetry/trace.ts'
import type { GatewayContext, GatewayEnv, Principal, World } from '../context.ts'
import { fromDatabase } from '../database/from-database.ts'
import { keyUses } from '../database/records.ts'
import { invalidApiKey, wrongKeyClass } from '../errors.ts'
import { errorFields, log } from '../log.ts'
import { isLive, type KeyRecord, loadAdminKey } from '../policy/load-policy.ts'
import { parseKey } from './key-format.ts'
import { verifyKey } from './keys.ts'
import { createTokenReader, isToken, type TokenReader } from './tokens.ts'

/** Exact paths that answer without a key. */
export const PUBLIC_PATHS: readonly string[] = ['/healthz', '/openapi.json', '/docs']
const ADMIN_PREFIX = '/admin/'
/** How exact `lastUsedAt` is: one write a key and isolate in that time. */
const USE_MS = 60_000

export function createGuard(world: World) {
  const readToken = createTokenReader(world)
  const recordUse = createUseRecorder(world.now)
  return createMiddleware<GatewayEnv>(async (c, next) => {
    if (!PUBLIC_PATHS.includes(c.req.path)) {
      const principal = await traced(c.get('trace'), 'authenticate', () => authenticate(c, readToken))
      c.set('principal', principal)
      recordUse(c, principal)
    }
    await next()
  })
}

async function authenticate(c: GatewayContext, readToken: TokenReader): Promise<Principal> {
  const header = c.req.raw.headers.get('authorization')
  const text = header?.startsWith('Bearer ') ? header.slice('Bearer '.length) : ''
  const isAdmin = c.req.path.startsWith(ADMIN_PREFIX)
  if (isToken(text)) {
    const caller = await readToken(c, text)
    // Only a proven token is told that it is of the wrong class.
    if (isAdmin) throw wrongKeyClass()
    const loaded = await fromDatabase(() => c.get('policies').load(c.get('db'), caller))
    if (!loaded?.policy) throw invalidApiKey()
    return { class: 'user', policy: loaded.policy }
  }
  const { environment } = c.get('config')
  const keyId = parseKey(text, environment)
  if (keyId === null) throw invalidApiKey()
  return isAdmin ? authenticateAdmin(c, text, keyId) : authenticateUser(c, text, keyId)
}

async function authenticateAdmin(c: GatewayContext, text: string, keyId: string): Promise<Principal> {
  const key = await fromDatabase(() => loadAdminKey(c.get('db'), keyId))
  if (!isProven(c, text, key)) throw invalidApiKey()
  if (key?.class !== 'admin') throw wrongKeyClass()
  return { class: 'admin', keyId }
}

async function authenticateUser(c: GatewayContext, text: string, keyId: string): Promise<Principal> {
  const loaded = await fromDatabase(() => c.get('policies').load(c.get('db'), { kind: 'key', keyId }))
  if (!isProven(c, text, loaded?.key ?? undefined)) throw invalidApiKey()
  if (loaded?.key?.class !== 'user') throw wrongKeyClass()
  if (loaded.policy === null) throw invalidApiKey()
  return { class: 'user', policy: loaded.policy }
}

function isProven(c: GatewayContext, text: string, key: KeyRecord | undefined): boolean {
  const now = c.get('world').now()
  return verifyKey(text, key, c.get('config').peppers, now) && key !== undefined && isLive(key, now)
}

function createUseRecorder(now: () => number): (c: GatewayContext, principal: Principal) => void {
  /** Emptied with each span, so it holds the keys of one. */
  const recorded = new Set<string>()
  let since = now()
  return (c, principal) => {
    const keyId = principal.class === 'admin' ? principal.keyId : principal.policy.subject.keyId
    if (keyId === null) return
    const at = now()
    if (at - since >= USE_MS) {
      recorded.clear()
      since = at
    }
    if (recorded.has(keyId)) return
    recorded.add(keyId)
    const write = c
      .get('db')
      .insert(keyUses)
      .values({ keyId, lastUsedAt: at })
      .onConflictDoUpdate({ target: keyUses.keyId, set: { lastUsedAt: sql`max(${keyUses.lastUsedAt}, ${at})` } })
    c.executionCtx.waitUntil(
      write.then(
        () => {},
        (error: unknown) => log('key.use', { keyId, ...errorFields(error) }),
      ),
    )
  }
}
