// Users, the roles that they have and the groups that they are in.
import { and, asc, eq } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { userGroups, userRoles, users } from '../database/schema.ts'
import { Id, MAX_ROWS, readBody, readParam } from './read-input.ts'
import { recordChange } from './record-change.ts'

export const Body = z.strictObject({
  disabled: z.boolean().default(false),
  /** The whole set. Left out, it stays as it is: a role may carry a deny. */
  roles: z.array(Id).max(64).optional(),
  /** As `roles`. What a token of an issuer says is added to it. */
  groups: z.array(Id).max(64).optional(),
})

const sorted = (ids: readonly string[]) => [...new Set(ids)].sort()

export function addUsers(admin: Hono<GatewayEnv>): void {
  admin.get('/tenants/:tenant/users', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const db = c.get('db')
    const [rows, roleRows, groupRows] = await db.batch([
      db.select().from(users).where(eq(users.tenantId, tenantId)).limit(MAX_ROWS),
      db.select().from(userRoles).where(eq(userRoles.tenantId, tenantId)).orderBy(asc(userRoles.roleId)),
      db.select().from(userGroups).where(eq(userGroups.tenantId, tenantId)).orderBy(asc(userGroups.groupId)),
    ])
    const rolesOf = (id: string) => roleRows.filter((row) => row.userId === id).map((row) => row.roleId)
    const groupsOf = (id: string) => groupRows.filter((row) => row.userId === id).map((row) => row.groupId)
    return c.json({ data: rows.map((row) => ({ ...row, roles: rolesOf(row.id), groups: groupsOf(row.id) })) })
  })

  admin.put('/tenants/:tenant/users/:user', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'user')
    const { disabled, roles, groups } = await readBody(c, Body)
    const db = c.get('db')
    const ownRoles = and(eq(userRoles.tenantId, tenantId), eq(userRoles.userId, id))
    const ownGroups = and(eq(userGroups.tenantId, tenantId), eq(userGroups.userId, id))
    const [[row], roleRows, groupRows] = await db.batch([
      db
        .select()
        .from(users)
        .where(and(eq(users.tenantId, tenantId), eq(users.id, id))),
      db.select().from(userRoles).where(ownRoles).orderBy(asc(userRoles.roleId)),
      db.select().from(userGroups).where(ownGroups).orderBy(asc(userGroups.groupId)),
    ])
    const had = { roles: roleRows.map(({ roleId }) => roleId), groups: groupRows.map(({ groupId }) => groupId) }
    const before = row && { ...row, ...had }
    const user = { tenantId, id, disabled, createdAt: row?.createdAt ?? c.get('world').now() }
    const after = { ...user, roles: sorted(roles ?? had.roles), groups: sorted(groups ?? had.groups) }
    const writes = [
      db
        .insert(users)
        .values(user)
        .onConflictDoUpdate({ target: [users.tenantId, users.id], set: { disabled } }),
      db.delete(userRoles).where(ownRoles),
      ...after.roles.map((roleId) => db.insert(userRoles).values({ tenantId, userId: id, roleId })),
      db.delete(userGroups).where(ownGroups),
      ...after.groups.map((groupId) => db.insert(userGroups).values({ tenantId, userId: id, groupId })),
    ]
    await recordChange(c, { action: 'user.put', resource: `${tenantId}/${id}`, before, after, writes })
    return c.json(after, before ? 200 : 201)
  })
}
