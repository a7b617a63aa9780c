// Grants: who may, or may not, use which adapter or base, and when.
import { and, eq } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { grants } from '../database/schema.ts'
import { notFound } from '../errors.ts'
import { ACTIONS, type Action, Actions } from '../policy/actions.ts'
import { Digest, Id, KeyId, MAX_ROWS, readBody, readParam, Time } from './read-input.ts'
import { recordChange } from './record-change.ts'

const DEFAULT_ACTIONS: Readonly<Record<'allow' | 'deny', readonly Action[]>> = {
  allow: ['infer', 'list'],
  deny: ACTIONS,
}

export const Body = z
  .strictObject({
    effect: z.enum(['allow', 'deny']),
    /** Left out: use and listing for an allow, everything for a deny. */
    actions: Actions.optional(),
    principal: z.discriminatedUnion('kind', [
      z.strictObject({ kind: z.literal('tenant') }),
      z.strictObject({ kind: z.literal('user'), id: Id }),
      z.strictObject({ kind: z.literal('group'), id: Id }),
      z.strictObject({ kind: z.literal('role'), id: Id }),
      z.strictObject({ kind: z.literal('key'), id: KeyId }),
    ]),
    resource: z.discriminatedUnion('kind', [
      z.strictObject({ kind: z.literal('adapter'), id: Id }),
      z.strictObject({ kind: z.literal('tag'), tag: Id }),
      z.strictObject({ kind: z.literal('base'), digest: Digest }),
    ]),
    startsAt: Time.nullish(),
    endsAt: Time.nullish(),
  })
  .refine(({ startsAt, endsAt }) => startsAt == null || endsAt == null || startsAt < endsAt, {
    path: ['endsAt'],
    message: 'must be after startsAt',
  })

export function addGrants(admin: Hono<GatewayEnv>): void {
  admin.get('/tenants/:tenant/grants', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const rows = await c.get('db').select().from(grants).where(eq(grants.tenantId, tenantId)).limit(MAX_ROWS)
    return c.json({ data: rows })
  })

  admin.put('/tenants/:tenant/grants/:grant', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'grant')
    const { effect, actions, principal, resource, startsAt, endsAt } = await readBody(c, Body)
    const db = c.get('db')
    const [before] = await db
      .select()
      .from(grants)
      .where(and(eq(grants.tenantId, tenantId), eq(grants.id, id)))
    const set = {
      effect,
      actions: actions ?? DEFAULT_ACTIONS[effect],
      principalKind: principal.kind,
      keyId: principal.kind === 'key' ? principal.id : null,
      userId: principal.kind === 'user' ? principal.id : null,
      groupId: principal.kind === 'group' ? principal.id : null,
      roleId: principal.kind === 'role' ? principal.id : null,
      adapterId: resource.kind === 'adapter' ? resource.id : null,
      tag: resource.kind === 'tag' ? resource.tag : null,
      baseDigest: resource.kind === 'base' ? resource.digest : null,
      startsAt: startsAt ?? null,
      endsAt: endsAt ?? null,
    }
    const after = { tenantId, id, ...set, createdAt: before?.createdAt ?? c.get('world').now() }
    const write = db
      .insert(grants)
      .values(after)
      .onConflictDoUpdate({ target: [grants.tenantId, grants.id], set })
    await recordChange(c, { action: 'grant.put', resource: `${tenantId}/${id}`, before, after, writes: [write] })
    return c.json(after, before ? 200 : 201)
  })

  admin.delete('/tenants/:tenant/grants/:grant', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'grant')
    const db = c.get('db')
    const same = and(eq(grants.tenantId, tenantId), eq(grants.id, id))
    const [before] = await db.select().from(grants).where(same)
    if (before === undefined) throw notFound()
    const resource = `${tenantId}/${id}`
    const writes = [db.delete(grants).where(same)]
    await recordChange(c, { action: 'grant.delete', resource, before, after: undefined, writes })
    return c.json(before)
  })
}
