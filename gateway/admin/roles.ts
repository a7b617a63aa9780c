// Roles: a name that grants can be given to and users can have.
import { and, eq } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { roles } from '../database/schema.ts'
import { MAX_ROWS, readBody, readParam } from './read-input.ts'
import { recordChange } from './record-change.ts'

const Body = z.strictObject({ disabled: z.boolean().default(false) })

export function addRoles(admin: Hono<GatewayEnv>): void {
  admin.get('/tenants/:tenant/roles', async (c) => {
    const tenantId = readParam(c, 'tenant')
    return c.json({ data: await c.get('db').select().from(roles).where(eq(roles.tenantId, tenantId)).limit(MAX_ROWS) })
  })

  admin.put('/tenants/:tenant/roles/:role', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'role')
    const body = await readBody(c, Body)
    const db = c.get('db')
    const [before] = await db
      .select()
      .from(roles)
      .where(and(eq(roles.tenantId, tenantId), eq(roles.id, id)))
    const after = { tenantId, id, ...body, createdAt: before?.createdAt ?? c.get('world').now() }
    const write = db
      .insert(roles)
      .values(after)
      .onConflictDoUpdate({ target: [roles.tenantId, roles.id], set: body })
    await recordChange(c, { action: 'role.put', resource: `${tenantId}/${id}`, before, after, writes: [write] })
    return c.json(after, before ? 200 : 201)
  })
}
