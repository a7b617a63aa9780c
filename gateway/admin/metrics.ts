// Metrics: what feedback may say about a request, and which way is better.
import { and, eq } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { metrics } from '../database/schema.ts'
import { badRequest } from '../errors.ts'
import { RULED } from '../experiment/read-sums.ts'
import { Id, MAX_ROWS, readBody, readParam } from './read-input.ts'
import { immutable, recordChange } from './record-change.ts'

/** Sums of squares of so large a number still add up in doubles. */
const MAX_BOUND = 1e9
const bound = z.number().min(-MAX_BOUND).max(MAX_BOUND)
export const Body = z
  .strictObject({ better: z.enum(['higher', 'lower']).default('higher'), min: bound.default(0), max: bound.default(1) })
  .refine(({ min, max }) => min < max, 'min must be below max')

/** A feedback metric shares its name with no rule's. */
const isRuled = (id: string): boolean => Object.hasOwn(RULED, id)

export function addMetrics(admin: Hono<GatewayEnv>): void {
  admin.get('/tenants/:tenant/metrics', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const rows = await c.get('db').select().from(metrics).where(eq(metrics.tenantId, tenantId)).limit(MAX_ROWS)
    return c.json({ data: rows })
  })

  admin.put('/tenants/:tenant/metrics/:metric', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'metric', Id)
    const body = await readBody(c, Body)
    if (isRuled(id)) throw badRequest(`'${id}' is measured by a rule; choose another id.`, 'already_exists', 'metric')
    const db = c.get('db')
    const [before] = await db
      .select()
      .from(metrics)
      .where(and(eq(metrics.tenantId, tenantId), eq(metrics.id, id)))
    if (before !== undefined) {
      const same = before.better === body.better && before.min === body.min && before.max === body.max
      // Old values under new bounds would be two metrics in one mean.
      if (!same) throw immutable('A metric')
      return c.json(before)
    }
    const after = { tenantId, id, ...body, createdAt: c.get('world').now() }
    const write = db.insert(metrics).values(after)
    await recordChange(c, { action: 'metric.put', resource: `${tenantId}/${id}`, before, after, writes: [write] })
    return c.json(after, 201)
  })
}
