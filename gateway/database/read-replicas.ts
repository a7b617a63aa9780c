// D1 with read replication: which answers a replica may give. Whoever authorises, admits or writes asks the primary, as D1 does
// where no session is opened: a replica may lag by any time, and a revocation must hold within two seconds. Only an admin's
// reads may come from a replica, and only where the admin says how new they must be.
import { type AnyD1Database, drizzle } from 'drizzle-orm/d1'
import { createMiddleware } from 'hono/factory'
import type { GatewayEnv } from '../context.ts'
import { badRequest } from '../errors.ts'

const HEADER = 'x-sidepath-bookmark'
/** As D1 writes them; what it means is D1's affair. */
const BOOKMARK = /^[0-9a-f]{8}(-[0-9a-f]{4,64}){1,8}$/
/** From whichever replica is near, however old. */
const ANY = 'any'

interface Session {
  getBookmark(): string | null
}

interface Replicated {
  withSession(constraint: string): Session & AnyD1Database
}

/** As far as drizzle asks a session for anything, it is a database. */
const replicatedOf = (db: object): Replicated | undefined =>
  'withSession' in db && typeof db.withSession === 'function' ? (db as Replicated) : undefined

/**
 * Behind the guard. Each answer tells a bookmark; a read that brings one sees at least what that answer saw. On Node, whose
 * database has no replicas, there is none, and one that is brought is true by itself.
 */
export const readReplicas = createMiddleware<GatewayEnv>(async (c, next) => {
  const db = replicatedOf(c.get('config').db)
  const given = c.req.header(HEADER)
  if (given !== undefined && given !== ANY && !BOOKMARK.test(given)) {
    throw badRequest(`${HEADER} is none that an answer had, and not '${ANY}'; leave it out.`, 'invalid_value', HEADER)
  }
  if (db === undefined) return next()
  const isRead = c.req.method === 'GET'
  const session = db.withSession(!isRead || given === undefined ? 'first-primary' : startOf(given))
  c.set('db', drizzle(session))
  await next()
  const bookmark = session.getBookmark()
  if (bookmark !== null) c.res.headers.set(HEADER, bookmark)
})

const startOf = (given: string): string => (given === ANY ? 'first-unconstrained' : given)
