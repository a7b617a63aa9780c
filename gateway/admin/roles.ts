// Roles and groups: names that grants can be given to and users can have.
import { and, eq } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { groups, roles } from '../database/schema.ts'
import { MAX_ROWS, readBody, readParam } from './read-input.ts'
import { recordChange } from './record-change.ts'

export const Body = z.strictObject({ disabled: z.boolean().default(false) })

export function addRoles(admin: Hono<GatewayEnv>): void {
  addKind(admin, 'role', roles)
}

export function addGroups(admin: Hono<GatewayEnv>): void {
  addKind(admin, 'group', groups)
}

function addKind<T extends typeof roles | typeof groups>(
  admin: Hono<GatewayEnv>,
  kind: 'role' | 'group',
  given: T,
): void {
  // The two tables have the same columns.
  const table: typeof roles | typeof groups = given
  admin.get(`/tenants/:tenant/${kind}s`, async (c) => {
    const tenantId = readParam(c, 'tenant')
    return c.json({ data: await c.get('db').select().from(table).where(eq(table.tenantId, tenantId)).limit(MAX_ROWS) })
  })

  admin.put(`/tenants/:tenant/${kind}s/:${kind}`, async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, kind)
    const body = await readBody(c, Body)
    const db = c.get('db')
    const [before] = await db
      .select()
      .from(table)
      .where(and(eq(table.tenantId, tenantId), eq(table.id, id)))
    const after = { tenantId, id, ...body, createdAt: before?.createdAt ?? c.get('world').now() }
    const write = db
      .insert(table)
      .values(after)
      .onConflictDoUpdate({ target: [table.tenantId, table.id], set: body })
    await recordChange(c, { action: `${kind}.put`, resource: `${tenantId}/${id}`, before, after, writes: [write] })
    return c.json(after, before ? 200 : 201)
  })
}
