// The audit trail: newest first for people, oldest first for those who check its chain.
import { asc, desc, gt, lt } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { audit } from '../database/records.ts'
import { badRequest } from '../errors.ts'
import { refuse } from '../infer/parse-request.ts'
import { readPage } from './read-input.ts'

export const After = z.coerce.number().int().min(0).optional()

export function addAudit(admin: Hono<GatewayEnv>): void {
  admin.get('/audit', async (c) => {
    const { limit, before } = readPage(c)
    const after = After.safeParse(c.req.query('after'))
    if (!after.success) refuse(after.error)
    if (after.data !== undefined && c.req.query('before') !== undefined) {
      throw badRequest("Give 'before' or 'after', not both.", 'invalid_value', 'after')
    }
    const rows = c.get('db').select().from(audit)
    const page =
      after.data === undefined
        ? rows.where(lt(audit.id, before)).orderBy(desc(audit.id))
        : rows.where(gt(audit.id, after.data)).orderBy(asc(audit.id))
    return c.json({ data: await page.limit(limit) })
  })
}
