// Limits: what may be used in a minute or a day, and how much of it is used now.
import { and, eq, gt, lte } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { limitWindows } from '../database/records.ts'
import { limits } from '../database/schema.ts'
import { Id, KeyId, MAX_ROWS, readBody, readParam } from './read-input.ts'
import { immutable, recordChange } from './record-change.ts'

/** Sums of a window must stay far within what JavaScript counts exactly. */
const MAX_AMOUNT = 1e15

/** A token's `sub` may be anything; it need not be in the registry. */
const UserId = z.string().min(1).max(255)

export const Body = z.strictObject({
  scope: z.discriminatedUnion('kind', [
    z.strictObject({ kind: z.enum(['tenant', 'each-key', 'each-user', 'each-adapter']) }),
    z.strictObject({ kind: z.literal('key'), id: KeyId }),
    z.strictObject({ kind: z.literal('user'), id: UserId }),
    z.strictObject({ kind: z.literal('adapter'), id: Id }),
  ]),
  metric: z.enum(['requests', 'tokens', 'cost']),
  window: z.enum(['minute', 'day']),
  amount: z.int().min(0).max(MAX_AMOUNT),
  disabled: z.boolean().default(false),
})

export function addLimits(admin: Hono<GatewayEnv>): void {
  admin.get('/tenants/:tenant/limits', async (c) => {
    const tenantId = readParam(c, 'tenant')
    return c.json({
      data: await c.get('db').select().from(limits).where(eq(limits.tenantId, tenantId)).limit(MAX_ROWS),
    })
  })

  admin.get('/tenants/:tenant/limits/:limit/windows', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const limitId = readParam(c, 'limit')
    const now = c.get('world').now()
    const rows = await c
      .get('db')
      .select()
      .from(limitWindows)
      .where(
        and(
          eq(limitWindows.tenantId, tenantId),
          eq(limitWindows.limitId, limitId),
          lte(limitWindows.start, now),
          gt(limitWindows.end, now),
        ),
      )
      .limit(MAX_ROWS)
    return c.json({ data: rows })
  })

  admin.put('/tenants/:tenant/limits/:limit', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'limit')
    const { scope, metric, window, amount, disabled } = await readBody(c, Body)
    const db = c.get('db')
    const [before] = await db
      .select()
      .from(limits)
      .where(and(eq(limits.tenantId, tenantId), eq(limits.id, id)))
    const fixed = {
      scope: scope.kind,
      keyId: scope.kind === 'key' ? scope.id : null,
      userId: scope.kind === 'user' ? scope.id : null,
      adapterId: scope.kind === 'adapter' ? scope.id : null,
      metric,
      window,
    }
    // Its counts would be of something else.
    if (before && (Object.keys(fixed) as (keyof typeof fixed)[]).some((field) => before[field] !== fixed[field])) {
      throw immutable('What a limit counts')
    }
    const set = { amount, disabled }
    const after = { tenantId, id, ...fixed, ...set, createdAt: before?.createdAt ?? c.get('world').now() }
    const write = db
      .insert(limits)
      .values(after)
      .onConflictDoUpdate({ target: [limits.tenantId, limits.id], set })
    await recordChange(c, { action: 'limit.put', resource: `${tenantId}/${id}`, before, after, writes: [write] })
    return c.json(after, before ? 200 : 201)
  })
}
