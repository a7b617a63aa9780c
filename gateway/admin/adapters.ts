// Adapters: one row per version. What a row names never changes, since grants were given to it.
import { and, eq } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { adapters } from '../database/schema.ts'
import { Digest, Id, MAX_ROWS, readBody, readParam } from './read-input.ts'
import { immutable, recordChange } from './record-change.ts'

const Body = z.strictObject({
  name: Id,
  version: z.int().min(1),
  digest: Digest,
  base: Digest,
  disabled: z.boolean().default(false),
})

export function addAdapters(admin: Hono<GatewayEnv>): void {
  admin.get('/tenants/:tenant/adapters', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const rows = await c.get('db').select().from(adapters).where(eq(adapters.tenantId, tenantId)).limit(MAX_ROWS)
    return c.json({ data: rows })
  })

  admin.put('/tenants/:tenant/adapters/:adapter', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'adapter')
    const { base: baseDigest, disabled, ...rest } = await readBody(c, Body)
    const db = c.get('db')
    const [before] = await db
      .select()
      .from(adapters)
      .where(and(eq(adapters.tenantId, tenantId), eq(adapters.id, id)))
    const fixed = { ...rest, baseDigest }
    if (before && (Object.keys(fixed) as (keyof typeof fixed)[]).some((field) => before[field] !== fixed[field])) {
      throw immutable('What an adapter names')
    }
    const after = { tenantId, id, ...fixed, disabled, createdAt: before?.createdAt ?? c.get('world').now() }
    const write = db
      .insert(adapters)
      .values(after)
      .onConflictDoUpdate({ target: [adapters.tenantId, adapters.id], set: { disabled } })
    await recordChange(c, { action: 'adapter.put', resource: `${tenantId}/${id}`, before, after, writes: [write] })
    return c.json(after, before ? 200 : 201)
  })
}
