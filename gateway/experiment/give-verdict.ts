// Promote or roll back: in one batch the experiment stops and every model that led to it leads to the arm that won.
// A verdict may be followed by another: what one promoted, the next takes back, on the models that still have it.
import { and, eq, inArray, isNull, or } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import { Id, readBody } from '../admin/read-input.ts'
import { recordChange } from '../admin/record-change.ts'
import { type GatewayContext, type GatewayEnv, userPolicy } from '../context.ts'
import { experiments, models, type Verdict } from '../database/schema.ts'
import { badRequest, notFound } from '../errors.ts'
import { isGranted } from '../policy/policy.ts'
import { type ExperimentRow, readExperiment } from './read-experiment.ts'

/** Of an arm; the one shape for both planes. */
export const PromoteBody = z.strictObject({ arm: Id })
export const RollBackBody = z.strictObject({})

/** Null: the control, which is what a roll-back goes to. */
export type Winner = string | null

/**
 * By a key or token of the tenant: it must be allowed to `promote` both what shall be served and the control, which is what
 * gives way. The answer to whoever may not is that of an experiment that does not exist.
 */
async function giveVerdictAsUser(c: GatewayContext, id: string, winner: Winner): Promise<Response> {
  const policy = userPolicy(c)
  const { tenantId, keyId, userId } = policy.subject
  const now = c.get('world').now()
  const arms = policy.registry.experiments.get(id)?.arms ?? []
  const [control] = arms
  const chosen = winner === null ? control : arms.find((arm) => arm.id === winner)
  if (control === undefined || chosen === undefined) throw notFound()
  if (![control, chosen].every((arm) => isGranted(policy, arm.target, now, 'promote'))) throw notFound()
  return c.json(await giveVerdict(c, tenantId, id, winner, keyId ?? `${tenantId}/${userId}`))
}

/** For keys and tokens of tenants; admin keys have the same under /admin. */
export function addVerdicts(app: Hono<GatewayEnv>): void {
  app.post('/v1/experiments/:experiment/promote', async (c) => {
    const { arm } = await readBody(c, PromoteBody)
    return giveVerdictAsUser(c, c.req.param('experiment'), arm)
  })
  app.post('/v1/experiments/:experiment/roll-back', async (c) => {
    await readBody(c, RollBackBody)
    return giveVerdictAsUser(c, c.req.param('experiment'), null)
  })
}

export async function giveVerdict(
  c: GatewayContext,
  tenantId: string,
  id: string,
  winner: Winner,
  actor?: string,
): Promise<ExperimentRow> {
  const db = c.get('db')
  const before = await readExperiment(db, tenantId, id)
  if (before === undefined) throw notFound()
  const arm = winner === null ? before.arms[0] : before.arms.find((row) => row.id === winner)
  if (arm === undefined) throw badRequest(`The experiment has no arm '${winner}'.`, 'unknown_reference', 'arm')
  if (arm.stoppedAt !== null) {
    throw badRequest(`A guardrail stopped the arm '${arm.id}'; promote another.`, 'arm_stopped', 'arm')
  }
  const last = before.arms.find((row) => row.id === before.verdict?.arm)
  const led = and(eq(models.tenantId, tenantId), or(eq(models.experimentId, id), servedBy(before.verdict, last)))
  const names = (await db.select({ name: models.name }).from(models).where(led)).map(({ name }) => name)
  const verdict: Verdict = { arm: arm.id, models: names, at: c.get('world').now() }
  const set = { status: 'stopped' as const, verdict, verdicts: before.verdicts + 1 }
  const after = { ...before, ...set }
  const writes = [
    db
      .update(experiments)
      .set(set)
      .where(and(eq(experiments.tenantId, tenantId), eq(experiments.id, id))),
    db
      .update(models)
      .set({ adapterId: arm.adapterId, baseDigest: arm.baseDigest, experimentId: null })
      // Asked again, in the batch: a model that was pointed elsewhere meanwhile stays there.
      .where(and(led, inArray(models.name, names))),
  ]
  const action = winner === null ? 'experiment.roll-back' : 'experiment.promote'
  const resource = `${tenantId}/${id}`
  await recordChange(c, { action, resource, before, after, writes, ...(actor === undefined ? {} : { actor }) })
  return after
}

/** The models that the last verdict moved and that nobody has moved since. */
function servedBy(verdict: Verdict | null, last: ExperimentRow['arms'][number] | undefined) {
  if (verdict === null || last === undefined) return undefined
  return and(
    inArray(models.name, [...verdict.models]),
    last.adapterId === null ? isNull(models.adapterId) : eq(models.adapterId, last.adapterId),
    last.baseDigest === null ? isNull(models.baseDigest) : eq(models.baseDigest, last.baseDigest),
  )
}
