// Usage: what each request was decided to run, and the tokens that it took.
import { and, desc, eq, lt } from 'drizzle-orm'
import type { Hono } from 'hono'
import type { GatewayEnv } from '../context.ts'
import { usage } from '../database/records.ts'
import { notFound } from '../errors.ts'
import { readPage, readParam } from './read-input.ts'

export function addUsage(admin: Hono<GatewayEnv>): void {
  admin.get('/tenants/:tenant/usage', async (c) => {
    const { limit, before } = readPage(c)
    const rows = await c
      .get('db')
      .select()
      .from(usage)
      .where(and(eq(usage.tenantId, readParam(c, 'tenant')), lt(usage.createdAt, before)))
      .orderBy(desc(usage.createdAt))
      .limit(limit)
    return c.json({ data: rows })
  })

  admin.get('/receipts/:receipt', async (c) => {
    const [row] = await c
      .get('db')
      .select()
      .from(usage)
      .where(eq(usage.receipt, c.req.param('receipt')))
    if (row === undefined) throw notFound()
    return c.json(row)
  })
}
