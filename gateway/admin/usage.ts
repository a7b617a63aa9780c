// Usage: what each request was decided to run, and the tokens that it took.
import { and, desc, eq, lt } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayContext, GatewayEnv } from '../context.ts'
import { usage } from '../database/records.ts'
import { notFound } from '../errors.ts'
import { refuse } from '../infer/parse-request.ts'
import { exportStream, FORMATS, GROUPINGS, readGroups, readRows } from '../usage/export-usage.ts'
import { readPage, readParam } from './read-input.ts'

const Export = z
  .object({
    from: z.coerce.number().int().min(0),
    to: z.coerce.number().int().min(0),
    format: z.enum(['csv', 'json']).default('csv'),
    group: z.enum(GROUPINGS).optional(),
  })
  .refine(({ from, to }) => from < to, { path: ['to'], message: 'must be after from' })

function readExport(c: GatewayContext): z.output<typeof Export> {
  const query = (name: string) => c.req.query(name)
  const asked = { from: query('from'), to: query('to'), format: query('format'), group: query('group') }
  const parsed = Export.safeParse(asked)
  return parsed.success ? parsed.data : refuse(parsed.error)
}

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

  admin.get('/tenants/:tenant/usage/export', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const { from, to, format, group } = readExport(c)
    const db = c.get('db')
    const span = { tenantId, from, to }
    const pages = group === undefined ? readRows(db, span) : readGroups(db, span, group)
    const body = await exportStream(pages, FORMATS[format])
    const name = `usage-${tenantId}-${from}-${to}.${format}`
    return new Response(body, {
      headers: { 'content-type': FORMATS[format].type, 'content-disposition': `attachment; filename="${name}"` },
    })
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
