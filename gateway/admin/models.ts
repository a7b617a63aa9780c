// Models: public names, and what each leads to. Pointing a name at another adapter is how a release is promoted.
import { and, eq } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { adapters, models } from '../database/schema.ts'
import { badRequest } from '../errors.ts'
import { Digest, Id, MAX_ROWS, ModelName, readBody, readParam } from './read-input.ts'
import { recordChange } from './record-change.ts'

const common = {
  disabled: z.boolean().default(false),
  /** Its place among those that `auto` tries, the lowest first. */
  autoRank: z.int().min(0).max(MAX_ROWS).nullable().default(null),
}
/** `name@version`: an adapter by what it is called rather than by its id. */
const Versioned = z.string().regex(/^[a-z0-9][a-z0-9._-]{0,63}@[1-9]\d{0,8}$/)
export const Body = z.union([
  z.strictObject({ adapter: z.union([Id, Versioned]), ...common }),
  z.strictObject({ base: Digest, ...common }),
  z.strictObject({ experiment: Id, ...common }),
])

/** The id of an adapter of the tenant; an id is taken as it is, and the foreign key looks after it. */
async function adapterIdOf(db: DrizzleD1Database, tenantId: string, given: string): Promise<string> {
  const [name = '', version] = given.split('@')
  if (version === undefined) return given
  const [row] = await db
    .select({ id: adapters.id })
    .from(adapters)
    .where(and(eq(adapters.tenantId, tenantId), eq(adapters.name, name), eq(adapters.version, Number(version))))
  if (row === undefined) {
    throw badRequest(
      `The tenant has no adapter '${given}'; register the version first.`,
      'unknown_reference',
      'adapter',
    )
  }
  return row.id
}

export function addModels(admin: Hono<GatewayEnv>): void {
  admin.get('/tenants/:tenant/models', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const rows = await c.get('db').select().from(models).where(eq(models.tenantId, tenantId)).limit(MAX_ROWS)
    return c.json({ data: rows })
  })

  admin.put('/tenants/:tenant/models/:model', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const name = readParam(c, 'model', ModelName)
    const body = await readBody(c, Body)
    const db = c.get('db')
    const [before] = await db
      .select()
      .from(models)
      .where(and(eq(models.tenantId, tenantId), eq(models.name, name)))
    const set = {
      adapterId: 'adapter' in body ? await adapterIdOf(db, tenantId, body.adapter) : null,
      baseDigest: 'base' in body ? body.base : null,
      experimentId: 'experiment' in body ? body.experiment : null,
      disabled: body.disabled,
      autoRank: body.autoRank,
    }
    const after = { tenantId, name, ...set, createdAt: before?.createdAt ?? c.get('world').now() }
    const write = db
      .insert(models)
      .values(after)
      .onConflictDoUpdate({ target: [models.tenantId, models.name], set })
    await recordChange(c, { action: 'model.put', resource: `${tenantId}/${name}`, before, after, writes: [write] })
    return c.json(after, before ? 200 : 201)
  })
}
