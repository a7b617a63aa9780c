// Usage: what each request was decided to run, and the tokens that it took.
import { and, desc, eq, lt } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayContext, GatewayEnv } from '../context.ts'
import { facts, usage } from '../database/records.ts'
import { notFound } from '../errors.ts'
import { refuse } from '../infer/parse-request.ts'
import { loadPolicy } from '../policy/load-policy.ts'
import { exportStream, FORMATS, GROUPINGS, readGroups, readRows } from '../usage/export-usage.ts'
import { type Facts, factsOf } from '../usage/facts.ts'
import { readPage, readParam } from './read-input.ts'

export const Export = z
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
    const db = c.get('db')
    const [row] = await db
      .select()
      .from(usage)
      .where(eq(usage.receipt, c.req.param('receipt')))
    if (row === undefined) throw notFound()
    const [kept] =
      row.factsDigest === null ? [] : await db.select().from(facts).where(eq(facts.digest, row.factsDigest))
    return c.json({ ...row, facts: kept?.text ?? null, now: await factsNow(db, row, kept?.text) })
  })
}

/** The same facts as they are now; null where the caller or the tenant is gone or disabled. */
async function factsNow(
  db: DrizzleD1Database,
  { tenantId, keyId, userId, model }: typeof usage.$inferSelect,
  then: string | undefined,
): Promise<string | null> {
  if (then === undefined) return null
  // What an issuer said of the user's groups is known from then only.
  const groups = (JSON.parse(then) as Facts).subject.groups.map(({ id }) => id)
  const caller = keyId === null ? ({ kind: 'user', tenantId, userId: userId ?? '', groups } as const) : null
  const loaded = await loadPolicy(db, caller ?? { kind: 'key', keyId: keyId ?? '' })
  return loaded?.policy && loaded.key?.enabled !== false ? JSON.stringify(factsOf(loaded.policy, model)) : null
}
