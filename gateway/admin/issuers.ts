// Issuers: whose OpenID Connect tokens open a tenant, and where their public keys are.
import { and, eq } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { issuers } from '../database/schema.ts'
import { ALGORITHMS } from '../identity/tokens.ts'
import { MAX_ROWS, readBody, readParam } from './read-input.ts'
import { immutable, recordChange } from './record-change.ts'

const MAX_CHARS = 512
/** https, or a host of this machine for a trial. */
const Address = z
  .url({ protocol: /^https?$/ })
  .max(MAX_CHARS)
  .refine(
    (text) => {
      const url = URL.parse(text)
      const isLocal = url?.hostname === 'localhost' || url?.hostname === '127.0.0.1'
      return url !== null && url.username === '' && url.hash === '' && (url.protocol === 'https:' || isLocal)
    },
    { message: 'must be an https address without credentials or fragment' },
  )

export const Body = z.strictObject({
  issuer: z.string().min(1).max(MAX_CHARS),
  audience: z.string().min(1).max(MAX_CHARS),
  jwksUrl: Address,
  algorithms: z.array(z.enum(ALGORITHMS)).min(1).max(ALGORITHMS.length).default(['RS256']),
  groupsClaim: z.string().min(1).max(128).nullish(),
  disabled: z.boolean().default(false),
})

export function addIssuers(admin: Hono<GatewayEnv>): void {
  admin.get('/tenants/:tenant/issuers', async (c) => {
    const tenantId = readParam(c, 'tenant')
    return c.json({
      data: await c.get('db').select().from(issuers).where(eq(issuers.tenantId, tenantId)).limit(MAX_ROWS),
    })
  })

  admin.put('/tenants/:tenant/issuers/:issuer', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'issuer')
    const { groupsClaim, ...body } = await readBody(c, Body)
    const db = c.get('db')
    const [before] = await db
      .select()
      .from(issuers)
      .where(and(eq(issuers.tenantId, tenantId), eq(issuers.id, id)))
    if (before && before.issuer !== body.issuer) throw immutable('Whose tokens an issuer vouches for')
    const set = { ...body, groupsClaim: groupsClaim ?? null }
    const after = { tenantId, id, ...set, createdAt: before?.createdAt ?? c.get('world').now() }
    const write = db
      .insert(issuers)
      .values(after)
      .onConflictDoUpdate({ target: [issuers.tenantId, issuers.id], set })
    await recordChange(c, { action: 'issuer.put', resource: `${tenantId}/${id}`, before, after, writes: [write] })
    return c.json(after, before ? 200 : 201)
  })
}
