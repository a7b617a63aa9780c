// Bases, by digest. They belong to the operator; tenants get at them by grants only.
import { eq } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { bases } from '../database/schema.ts'
import { Digest, MAX_ROWS, readBody, readParam } from './read-input.ts'
import { recordChange } from './record-change.ts'

export const Body = z.strictObject({ disabled: z.boolean().default(false) })

export function addBases(admin: Hono<GatewayEnv>): void {
  admin.get('/bases', async (c) => c.json({ data: await c.get('db').select().from(bases).limit(MAX_ROWS) }))

  admin.put('/bases/:digest', async (c) => {
    const digest = readParam(c, 'digest', Digest)
    const body = await readBody(c, Body)
    const db = c.get('db')
    const [before] = await db.select().from(bases).where(eq(bases.digest, digest))
    const after = { digest, ...body, createdAt: before?.createdAt ?? c.get('world').now() }
    const write = db.insert(bases).values(after).onConflictDoUpdate({ target: bases.digest, set: body })
    await recordChange(c, { action: 'base.put', resource: digest, before, after, writes: [write] })
    return c.json(after, before ? 200 : 201)
  })
}
