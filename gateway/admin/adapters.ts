// Adapters: one row per version. What a row names never changes, since grants were given to it.
import { and, asc, eq } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { adapters, adapterTags } from '../database/schema.ts'
import { Digest, Id, MAX_ROWS, readBody, readParam } from './read-input.ts'
import { immutable, recordChange } from './record-change.ts'

/** Every tag is looked up at each decision. */
const MAX_TAGS = 64

export const Body = z.strictObject({
  name: Id,
  version: z.int().min(1),
  digest: Digest,
  base: Digest,
  disabled: z.boolean().default(false),
  /** The whole set. Left out, it stays: a deny may name one. */
  tags: z.array(Id).max(MAX_TAGS).optional(),
})

export function addAdapters(admin: Hono<GatewayEnv>): void {
  admin.get('/tenants/:tenant/adapters', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const db = c.get('db')
    const [rows, tagRows] = await db.batch([
      db.select().from(adapters).where(eq(adapters.tenantId, tenantId)).limit(MAX_ROWS),
      db.select().from(adapterTags).where(eq(adapterTags.tenantId, tenantId)).orderBy(asc(adapterTags.tag)),
    ])
    const tagsOf = (id: string) => tagRows.filter((row) => row.adapterId === id).map((row) => row.tag)
    return c.json({ data: rows.map((row) => ({ ...row, tags: tagsOf(row.id) })) })
  })

  admin.put('/tenants/:tenant/adapters/:adapter', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const id = readParam(c, 'adapter')
    const { base: baseDigest, disabled, tags, ...rest } = await readBody(c, Body)
    const db = c.get('db')
    const ofThis = and(eq(adapterTags.tenantId, tenantId), eq(adapterTags.adapterId, id))
    const [[row], tagRows] = await db.batch([
      db
        .select()
        .from(adapters)
        .where(and(eq(adapters.tenantId, tenantId), eq(adapters.id, id))),
      db.select().from(adapterTags).where(ofThis).orderBy(asc(adapterTags.tag)),
    ])
    const had = tagRows.map(({ tag }) => tag)
    const before = row && { ...row, tags: had }
    const fixed = { ...rest, baseDigest }
    if (before && (Object.keys(fixed) as (keyof typeof fixed)[]).some((field) => before[field] !== fixed[field])) {
      throw immutable('What an adapter names')
    }
    const adapter = { tenantId, id, ...fixed, disabled, createdAt: before?.createdAt ?? c.get('world').now() }
    const after = { ...adapter, tags: tags === undefined ? had : [...new Set(tags)].sort() }
    const write = db
      .insert(adapters)
      .values(adapter)
      .onConflictDoUpdate({ target: [adapters.tenantId, adapters.id], set: { disabled } })
    const writes = [
      write,
      db.delete(adapterTags).where(ofThis),
      ...after.tags.map((tag) => db.insert(adapterTags).values({ tenantId, adapterId: id, tag })),
    ]
    await recordChange(c, { action: 'adapter.put', resource: `${tenantId}/${id}`, before, after, writes })
    return c.json(after, before ? 200 : 201)
  })
}
