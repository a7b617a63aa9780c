// Tenants: the outer wall. Nothing of one is visible to another.
import { eq } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { tenants } from '../database/schema.ts'
import { MAX_ROWS, readBody, readParam } from './read-input.ts'
import { recordChange } from './record-change.ts'

export const Body = z.strictObject({ maxTokens: z.int().min(1).max(1_000_000), disabled: z.boolean().default(false) })

export function addTenants(admin: Hono<GatewayEnv>): void {
  admin.get('/tenants', async (c) => c.json({ data: await c.get('db').select().from(tenants).limit(MAX_ROWS) }))

  admin.put('/tenants/:tenant', async (c) => {
    const id = readParam(c, 'tenant')
    const body = await readBody(c, Body)
    const db = c.get('db')
    const [before] = await db.select().from(tenants).where(eq(tenants.id, id))
    const after = { id, ...body, createdAt: before?.createdAt ?? c.get('world').now() }
    const write = db.insert(tenants).values(after).onConflictDoUpdate({ target: tenants.id, set: body })
    await recordChange(c, { action: 'tenant.put', resource: id, before, after, writes: [write] })
    return c.json(after, before ? 200 : 201)
  })
}
