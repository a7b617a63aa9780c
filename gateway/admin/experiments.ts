// Experiments: arms over adapters or the bare base, and who was exposed to which.
import { and, asc, desc, eq, lt } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { exposures } from '../database/records.ts'
import { arms, experiments } from '../database/schema.ts'
import { notFound } from '../errors.ts'
import { BUCKETS } from '../experiment/hash-bucket.ts'
import { Digest, Id, MAX_ROWS, readBody, readPage, readParam } from './read-input.ts'
import { immutable, recordChange } from './record-change.ts'

const weight = z.int().min(0).max(BUCKETS)
const ArmBody = z.union([
  z.strictObject({ id: Id, weight, adapter: Id }),
  z.strictObject({ id: Id, weight, base: Digest }),
])
const Body = z.strictObject({
  /** Experiments with one seed put a subject into the same bucket; the default keeps them independent. */
  seed: z.string().min(1).max(128).optional(),
  arms: z
    .array(ArmBody)
    .min(2)
    .max(16)
    .refine((list) => list.reduce((sum, arm) => sum + arm.weight, 0) === BUCKETS, 'weights must sum to 10000')
    .refine((list) => new Set(list.map((arm) => arm.id)).size === list.length, 'ids must differ'),
})
const Patch = z.strictObject({ status: z.enum(['draft', 'running', 'stopped']) })

async function readExperiment(db: DrizzleD1Database, tenantId: string, id: string) {
  const [rows, armRows] = await db.batch([
    db
      .select()
      .from(experiments)
      .where(and(eq(experiments.tenantId, tenantId), eq(experiments.id, id))),
    db
      .select({ id: arms.id, weight: arms.weight, adapterId: arms.adapterId, baseDigest: arms.baseDigest })
      .from(arms)
      .where(and(eq(arms.tenantId, tenantId), eq(arms.experimentId, id)))
      .orderBy(asc(arms.position)),
  ])
  return rows[0] && { ...rows[0], arms: armRows }
}

export function addExperiments(admin: Hono<GatewayEnv>): void {
  admin.get('/tenants/:tenant/experiments', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const db = c.get('db')
    const rows = await db.select().from(experiments).where(eq(experiments.tenantId, tenantId)).limit(MAX_ROWS)
    return c.json({ data: rows })
  })

  admin.get('/tenants/:tenant/experiments/:experiment', async (c) => {
    const found = await readExperiment(c.get('db'), readParam(c, 'tenant'), readParam(c, 'experiment'))
    if (found === undefined) throw notFound()
    return c.json(found)
  })

  admin.put('/tenants/:tenant/experiments/:experiment', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'experiment')
    const body = await readBody(c, Body)
    const seed = body.seed ?? `${tenantId}/${id}`
    const list = body.arms.map((arm) => ({
      id: arm.id,
      weight: arm.weight,
      adapterId: 'adapter' in arm ? arm.adapter : null,
      baseDigest: 'base' in arm ? arm.base : null,
    }))
    const db = c.get('db')
    const before = await readExperiment(db, tenantId, id)
    if (before !== undefined) {
      const same = before.seed === seed && JSON.stringify(before.arms) === JSON.stringify(list)
      // Other weights under the same name would mix two splits in one result.
      if (!same) throw immutable('The seed and the arms of an experiment')
      return c.json(before)
    }
    const createdAt = c.get('world').now()
    const row = { tenantId, id, seed, bucketVersion: 1, status: 'draft' as const, createdAt }
    const writes = [
      db.insert(experiments).values(row),
      ...list.map((arm, position) => db.insert(arms).values({ tenantId, experimentId: id, position, ...arm })),
    ]
    const after = { ...row, arms: list }
    await recordChange(c, { action: 'experiment.put', resource: `${tenantId}/${id}`, before, after, writes })
    return c.json(after, 201)
  })

  admin.patch('/tenants/:tenant/experiments/:experiment', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'experiment')
    const { status } = await readBody(c, Patch)
    const db = c.get('db')
    const before = await readExperiment(db, tenantId, id)
    if (before === undefined) throw notFound()
    const write = db
      .update(experiments)
      .set({ status })
      .where(and(eq(experiments.tenantId, tenantId), eq(experiments.id, id)))
    const after = { ...before, status }
    const resource = `${tenantId}/${id}`
    await recordChange(c, { action: 'experiment.patch', resource, before, after, writes: [write] })
    return c.json(after)
  })

  admin.get('/tenants/:tenant/experiments/:experiment/exposures', async (c) => {
    const { limit, before } = readPage(c)
    const rows = await c
      .get('db')
      .select()
      .from(exposures)
      .where(
        and(
          eq(exposures.tenantId, readParam(c, 'tenant')),
          eq(exposures.experimentId, readParam(c, 'experiment')),
          lt(exposures.createdAt, before),
        ),
      )
      .orderBy(desc(exposures.createdAt))
      .limit(limit)
    return c.json({ data: rows })
  })
}
