// `/healthz`: the schema is there, and every base in use has a backend that is ready for it.

import { and, eq, exists, or } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { GatewayContext, World } from './context.ts'
import { adapters, arms, backends, bases, models } from './database/schema.ts'
import { elapsed } from './elapsed.ts'
import { errorFields, log } from './log.ts'
import type { Secrets } from './upstream/credential.ts'
import { isAlive } from './upstream/watch-backends.ts'

/** The route is public and asks the backends: one answer serves everybody for as long. */
const KEEP_MS = 2_000

type Health = 'ok' | 'database_unavailable' | 'no_ready_backend'

async function check(db: DrizzleD1Database, world: World, secrets: Secrets): Promise<Health> {
  const used = or(
    exists(
      db
        .select()
        .from(adapters)
        .where(and(eq(adapters.baseDigest, bases.digest), eq(adapters.disabled, false))),
    ),
    exists(
      db
        .select()
        .from(models)
        .where(and(eq(models.baseDigest, bases.digest), eq(models.disabled, false))),
    ),
    exists(db.select().from(arms).where(eq(arms.baseDigest, bases.digest))),
  )
  try {
    const [usedBases, enabled] = await db.batch([
      db
        .select({ digest: bases.digest })
        .from(bases)
        .where(and(eq(bases.disabled, false), used)),
      db.select().from(backends).where(eq(backends.enabled, true)),
    ])
    const ready = await Promise.all(
      usedBases.map(async ({ digest }) => {
        const candidates = enabled.filter((backend) => backend.baseDigest === digest)
        return (await Promise.all(candidates.map((backend) => isAlive(world, backend, secrets)))).includes(true)
      }),
    )
    // A registry without a base serves nobody: whoever waits for readiness waits for the seeding too.
    return ready.length === 0 || ready.includes(false) ? 'no_ready_backend' : 'ok'
  } catch (error) {
    log('health.database', errorFields(error))
    return 'database_unavailable'
  }
}

export function createHealth(): (c: GatewayContext) => Promise<Response> {
  let kept: { health: Health; at: number } | undefined
  return async (c) => {
    const world = c.get('world')
    const now = world.now()
    if (kept === undefined || elapsed(now, kept.at) >= KEEP_MS) {
      kept = { health: await check(c.get('db'), world, c.env), at: now }
    }
    return c.json({ status: kept.health }, kept.health === 'ok' ? 200 : 503)
  }
}
