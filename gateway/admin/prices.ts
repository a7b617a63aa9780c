// Prices: what a million tokens of an adapter, or of everything on a base, costs a tenant.
import { and, eq } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { prices } from '../database/schema.ts'
import { notFound } from '../errors.ts'
import { Digest, Id, MAX_ROWS, readBody, readParam } from './read-input.ts'
import { immutable, recordChange } from './record-change.ts'

/** A thousand units of a currency for a million tokens: far above what anybody asks. */
const MAX_PRICE = 1e9
const Price = z.int().min(0).max(MAX_PRICE)

export const Body = z.strictObject({
  resource: z.discriminatedUnion('kind', [
    z.strictObject({ kind: z.literal('adapter'), id: Id }),
    z.strictObject({ kind: z.literal('base'), digest: Digest }),
  ]),
  promptPrice: Price,
  completionPrice: Price,
})

export function addPrices(admin: Hono<GatewayEnv>): void {
  admin.get('/tenants/:tenant/prices', async (c) => {
    const tenantId = readParam(c, 'tenant')
    return c.json({
      data: await c.get('db').select().from(prices).where(eq(prices.tenantId, tenantId)).limit(MAX_ROWS),
    })
  })

  admin.put('/tenants/:tenant/prices/:price', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'price')
    const { resource, ...set } = await readBody(c, Body)
    const db = c.get('db')
    const [before] = await db
      .select()
      .from(prices)
      .where(and(eq(prices.tenantId, tenantId), eq(prices.id, id)))
    const adapterId = resource.kind === 'adapter' ? resource.id : null
    const baseDigest = resource.kind === 'base' ? resource.digest : null
    if (before && (before.adapterId !== adapterId || before.baseDigest !== baseDigest)) {
      throw immutable('What a price is of')
    }
    const after = { tenantId, id, adapterId, baseDigest, ...set, createdAt: before?.createdAt ?? c.get('world').now() }
    const write = db
      .insert(prices)
      .values(after)
      .onConflictDoUpdate({ target: [prices.tenantId, prices.id], set })
    await recordChange(c, { action: 'price.put', resource: `${tenantId}/${id}`, before, after, writes: [write] })
    return c.json(after, before ? 200 : 201)
  })

  admin.delete('/tenants/:tenant/prices/:price', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'price')
    const db = c.get('db')
    const same = and(eq(prices.tenantId, tenantId), eq(prices.id, id))
    const [before] = await db.select().from(prices).where(same)
    if (before === undefined) throw notFound()
    const writes = [db.delete(prices).where(same)]
    await recordChange(c, {
      action: 'price.delete',
      resource: `${tenantId}/${id}`,
      before,
      after: undefined,
      writes,
    })
    return c.json(before)
  })
}
