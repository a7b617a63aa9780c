// Backends: the only source of an upstream address.
import { eq } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { backends } from '../database/schema.ts'
import { Digest, Id, MAX_ROWS, readBody, readParam } from './read-input.ts'
import { recordChange } from './record-change.ts'

/** An origin and no more: paths come from the contract, credentials from the capability. */
const Origin = z.string().refine((text) => {
  const url = URL.parse(text)
  return url !== null && (url.protocol === 'http:' || url.protocol === 'https:') && url.origin === text
}, 'must be an origin such as http://127.0.0.1:8080, without path, query, credentials or trailing slash')

const Body = z.strictObject({ url: Origin, base: Digest, enabled: z.boolean().default(true) })

export function addBackends(admin: Hono<GatewayEnv>): void {
  admin.get('/backends', async (c) => c.json({ data: await c.get('db').select().from(backends).limit(MAX_ROWS) }))

  admin.put('/backends/:backend', async (c) => {
    const id = readParam(c, 'backend', Id)
    const { url, base, enabled } = await readBody(c, Body)
    const db = c.get('db')
    const [before] = await db.select().from(backends).where(eq(backends.id, id))
    const set = { url, baseDigest: base, enabled }
    const after = { id, ...set, createdAt: before?.createdAt ?? c.get('world').now() }
    const write = db.insert(backends).values(after).onConflictDoUpdate({ target: backends.id, set })
    await recordChange(c, { action: 'backend.put', resource: id, before, after, writes: [write] })
    return c.json(after, before ? 200 : 201)
  })
}
