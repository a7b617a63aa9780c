// The audit trail, newest first.
import { desc, lt } from 'drizzle-orm'
import type { Hono } from 'hono'
import type { GatewayEnv } from '../context.ts'
import { audit } from '../database/records.ts'
import { readPage } from './read-input.ts'

export function addAudit(admin: Hono<GatewayEnv>): void {
  admin.get('/audit', async (c) => {
    const { limit, before } = readPage(c)
    const db = c.get('db')
    return c.json({
      data: await db.select().from(audit).where(lt(audit.id, before)).orderBy(desc(audit.id)).limit(limit),
    })
  })
}
