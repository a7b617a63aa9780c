// Experiments: arms over adapters or the bare base, who was exposed to which, what came of it, and how it ends.
import { and, desc, eq, lt } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { exposures } from '../database/records.ts'
import { arms, experiments } from '../database/schema.ts'
import { badRequest, notFound } from '../errors.ts'
import { enforceGuardrails } from '../experiment/enforce-guardrails.ts'
import { giveVerdict, PromoteBody, RollBackBody } from '../experiment/give-verdict.ts'
import { BUCKETS, NAMESPACE_BUCKETS } from '../experiment/hash-bucket.ts'
import { type ExperimentRow, readExperiment } from '../experiment/read-experiment.ts'
import { readResults } from '../experiment/results.ts'
import { Digest, Id, MAX_ROWS, readBody, readPage, readParam } from './read-input.ts'
import { immutable, recordChange } from './record-change.ts'

const weight = z.int().min(0).max(BUCKETS)
const target = { id: Id, weight, shadow: z.literal(false).default(false) }
/** A shadow has no weight: nobody is assigned to it. */
const shadow = { id: Id, weight: z.literal(0).default(0), shadow: z.literal(true) }
const ArmBody = z.union([
  z.strictObject({ ...target, adapter: Id }),
  z.strictObject({ ...target, base: Digest }),
  z.strictObject({ ...shadow, adapter: Id }),
  z.strictObject({ ...shadow, base: Digest }),
])
/** Each doubles what a request costs the backends. */
const MAX_SHADOWS = 2
const point = z.int().min(0).max(NAMESPACE_BUCKETS)
const Namespace = z
  .strictObject({ id: Id, start: point, end: point })
  .refine(({ start, end }) => start < end, 'start must be below end')
const Guardrails = z
  .array(z.strictObject({ metric: z.enum(['error', 'refusal', 'ttft']), margin: z.number().min(0).max(1e6) }))
  .max(3)
  .refine((list) => new Set(list.map(({ metric }) => metric)).size === list.length, 'metrics must differ')
const sumsUp = (weights: readonly number[]) => weights.reduce((sum, one) => sum + one, 0) === BUCKETS
export const Body = z.strictObject({
  /** Experiments with one seed put a subject into the same bucket; the default keeps them independent. */
  seed: z.string().min(1).max(128).optional(),
  coverage: weight.default(BUCKETS),
  namespace: Namespace.nullable().default(null),
  guardrails: Guardrails.default([]),
  arms: z
    .array(ArmBody)
    .min(2)
    .max(16)
    .refine((list) => sumsUp(list.map((arm) => arm.weight)), 'weights must sum to 10000')
    .refine((list) => new Set(list.map((arm) => arm.id)).size === list.length, 'ids must differ')
    .refine((list) => list[0]?.shadow === false, 'the first arm is the control, and no shadow')
    .refine((list) => list.filter((arm) => arm.shadow).length <= MAX_SHADOWS, `at most ${MAX_SHADOWS} are shadows`),
})
export const Patch = z
  .strictObject({
    status: z.enum(['draft', 'running', 'stopped']),
    coverage: weight,
    guardrails: Guardrails,
    /** Of every arm that is no shadow, by id. */
    weights: z.record(Id, weight),
  })
  .partial()
  .refine((patch) => Object.keys(patch).length > 0, 'name what shall change')

export const GuardrailsBody = z.strictObject({})

/** The arms with their new weights: of every arm that is no shadow, or of none. */
function reweigh(experiment: ExperimentRow, weights: Readonly<Record<string, number>> | undefined) {
  if (weights === undefined) return []
  const assigned = experiment.arms.filter((arm) => !arm.shadow)
  const named = Object.keys(weights)
  const matches = named.length === assigned.length && assigned.every((arm) => Object.hasOwn(weights, arm.id))
  if (!matches || !sumsUp(Object.values(weights))) {
    throw badRequest(
      `Invalid parameter 'weights': give each arm that is no shadow its weight, ${BUCKETS} in all.`,
      'invalid_value',
      'weights',
    )
  }
  return assigned.map((arm) => ({ id: arm.id, weight: weights[arm.id] ?? 0 }))
}

/** Without the keys that were left out. */
const definedOnly = <T extends object>(record: T) =>
  Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>
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
    const { arms: given, seed = `${tenantId}/${id}`, coverage, namespace, guardrails } = await readBody(c, Body)
    const list = given.map((arm) => ({
      id: arm.id,
      weight: arm.weight,
      adapterId: 'adapter' in arm ? arm.adapter : null,
      baseDigest: 'base' in arm ? arm.base : null,
      shadow: arm.shadow,
    }))
    const db = c.get('db')
    const before = await readExperiment(db, tenantId, id)
    if (before !== undefined) {
      const there = before.arms.map(({ stoppedAt: _at, stoppedBy: _by, ...arm }) => arm)
      const was = [before.seed, before.coverage, before.namespace, before.guardrails, there]
      // Other weights under the same version would mix two splits in one result.
      if (JSON.stringify(was) !== JSON.stringify([seed, coverage, namespace, guardrails, list])) {
        throw immutable('What an experiment is made of')
      }
      return c.json(before)
    }
    const createdAt = c.get('world').now()
    const what = { seed, coverage, namespace, guardrails }
    const row = { tenantId, id, ...what, bucketVersion: 1, status: 'draft' as const, createdAt }
    const writes = [
      db.insert(experiments).values(row),
      ...list.map((arm, position) => db.insert(arms).values({ tenantId, experimentId: id, position, ...arm })),
    ]
    const standing = list.map((arm) => ({ ...arm, stoppedAt: null, stoppedBy: null }))
    const after = { ...row, verdict: null, verdicts: 0, arms: standing }
    await recordChange(c, { action: 'experiment.put', resource: `${tenantId}/${id}`, before, after, writes })
    return c.json(after, 201)
  })

  admin.patch('/tenants/:tenant/experiments/:experiment', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'experiment')
    const { weights, ...set } = await readBody(c, Patch)
    const db = c.get('db')
    const before = await readExperiment(db, tenantId, id)
    if (before === undefined) throw notFound()
    // Other weights move subjects between arms, so they begin a version of their own: new assignments, new results.
    const bucketVersion = before.bucketVersion + (weights === undefined ? 0 : 1)
    const patched = { ...definedOnly(set), bucketVersion }
    const writes = [
      db
        .update(experiments)
        .set(patched)
        .where(and(eq(experiments.tenantId, tenantId), eq(experiments.id, id))),
      ...reweigh(before, weights).map((arm) =>
        db
          .update(arms)
          .set({ weight: arm.weight })
          .where(and(eq(arms.tenantId, tenantId), eq(arms.experimentId, id), eq(arms.id, arm.id))),
      ),
    ]
    const after = {
      ...before,
      ...patched,
      arms: before.arms.map((arm) => ({ ...arm, weight: weights?.[arm.id] ?? arm.weight })),
    }
    const resource = `${tenantId}/${id}`
    await recordChange(c, { action: 'experiment.patch', resource, before, after, writes })
    return c.json(after)
  })

  admin.get('/tenants/:tenant/experiments/:experiment/results', async (c) => {
    const found = await readExperiment(c.get('db'), readParam(c, 'tenant'), readParam(c, 'experiment'))
    if (found === undefined) throw notFound()
    return c.json(await readResults(c.get('db'), found))
  })

  admin.post('/tenants/:tenant/experiments/:experiment/guardrails', async (c) => {
    await readBody(c, GuardrailsBody)
    const stops = await enforceGuardrails(c, readParam(c, 'tenant'), readParam(c, 'experiment'))
    if (stops === undefined) throw notFound()
    return c.json({ stopped: stops })
  })

  admin.post('/tenants/:tenant/experiments/:experiment/promote', async (c) => {
    const { arm } = await readBody(c, PromoteBody)
    return c.json(await giveVerdict(c, readParam(c, 'tenant'), readParam(c, 'experiment'), arm))
  })

  admin.post('/tenants/:tenant/experiments/:experiment/roll-back', async (c) => {
    await readBody(c, RollBackBody)
    return c.json(await giveVerdict(c, readParam(c, 'tenant'), readParam(c, 'experiment'), null))
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
