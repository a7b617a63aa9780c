// Users and the roles that they have.
import { and, asc, eq } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { userRoles, users } from '../database/schema.ts'
import { Id, MAX_ROWS, readBody, readParam } from './read-input.ts'
import { recordChange } from './record-change.ts'

const Body = z.strictObject({
  disabled: z.boolean().default(false),
  /** The whole set. Left out, it stays as it is: a role may carry a deny. */
  roles: z.array(Id).max(64).optional(),
})

async function readRoles(db: DrizzleD1Database, tenantId: string, userId: string): Promise<string[]> {
  const rows = await db
    .select({ roleId: userRoles.roleId })
    .from(userRoles)
    .where(and(eq(userRoles.tenantId, tenantId), eq(userRoles.userId, userId)))
    .orderBy(asc(userRoles.roleId))
  return rows.map((row) => row.roleId)
}

export function addUsers(admin: Hono<GatewayEnv>): void {
  admin.get('/tenants/:tenant/users', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const db = c.get('db')
    const [rows, assigned] = await db.batch([
      db.select().from(users).where(eq(users.tenantId, tenantId)).limit(MAX_ROWS),
      db.select().from(userRoles).where(eq(userRoles.tenantId, tenantId)).orderBy(asc(userRoles.roleId)),
    ])
    const rolesOf = (id: string) => assigned.filter((row) => row.userId === id).map((row) => row.roleId)
    return c.json({ data: rows.map((row) => ({ ...row, roles: rolesOf(row.id) })) })
  })

  admin.put('/tenants/:tenant/users/:user', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'user')
    const { disabled, roles } = await readBody(c, Body)
    const db = c.get('db')
    const [row] = await db
      .select()
      .from(users)
      .where(and(eq(users.tenantId, tenantId), eq(users.id, id)))
    const had = await readRoles(db, tenantId, id)
    const next = roles === undefined ? had : [...new Set(roles)].sort()
    const before = row && { ...row, roles: had }
    const user = { tenantId, id, disabled, createdAt: row?.createdAt ?? c.get('world').now() }
    const writes = [
      db
        .insert(users)
        .values(user)
        .onConflictDoUpdate({ target: [users.tenantId, users.id], set: { disabled } }),
      db.delete(userRoles).where(and(eq(userRoles.tenantId, tenantId), eq(userRoles.userId, id))),
      ...next.map((roleId) => db.insert(userRoles).values({ tenantId, userId: id, roleId })),
    ]
    const after = { ...user, roles: next }
    await recordChange(c, { action: 'user.put', resource: `${tenantId}/${id}`, before, after, writes })
    return c.json(after, before ? 200 : 201)
  })
}
