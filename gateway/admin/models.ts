// Models: public names, and what each leads to. Pointing a name at another adapter is how a release is promoted.
import { and, eq } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { models } from '../database/schema.ts'
import { Digest, Id, MAX_ROWS, ModelName, readBody, readParam } from './read-input.ts'
import { recordChange } from './record-change.ts'

const disabled = z.boolean().default(false)
const Body = z.union([
  z.strictObject({ adapter: Id, disabled }),
  z.strictObject({ base: Digest, disabled }),
  z.strictObject({ experiment: Id, disabled }),
])

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
      adapterId: 'adapter' in body ? body.adapter : null,
      baseDigest: 'base' in body ? body.base : null,
      experimentId: 'experiment' in body ? body.experiment : null,
      disabled: body.disabled,
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
