// Keys: minted here and shown once; afterwards only their last four characters are known.
import { eq, isNull } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import { adminKeyId, type GatewayContext, type GatewayEnv } from '../context.ts'
import { keys } from '../database/schema.ts'
import { badRequest, notFound } from '../errors.ts'
import { mintKey } from '../identity/keys.ts'
import { Id, KeyId, MAX_ROWS, readBody, readParam, Time } from './read-input.ts'
import { recordChange } from './record-change.ts'

const AdminKeyBody = z.strictObject({ expiresAt: Time.nullish() })
const UserKeyBody = AdminKeyBody.extend({ user: Id.nullish() })
const Patch = z.strictObject({ disabled: z.boolean() })

/** Everything but the MAC, which never leaves the database. */
const shown = {
  id: keys.id,
  class: keys.class,
  tenantId: keys.tenantId,
  userId: keys.userId,
  last4: keys.last4,
  pepperVersion: keys.pepperVersion,
  expiresAt: keys.expiresAt,
  disabled: keys.disabled,
  createdAt: keys.createdAt,
}

async function mint(
  c: GatewayContext,
  owner: { class: 'user' | 'admin'; tenantId: string | null; userId: string | null },
  expiresAt: number | null,
): Promise<Response> {
  const { environment, peppers } = c.get('config')
  const { key, mac, ...stored } = await mintKey(environment, peppers)
  const after = { ...stored, ...owner, expiresAt, disabled: false, createdAt: c.get('world').now() }
  const write = c
    .get('db')
    .insert(keys)
    .values({ ...after, mac })
  await recordChange(c, { action: 'key.mint', resource: stored.id, before: undefined, after, writes: [write] })
  return c.json({ ...after, key }, 201)
}

export function addKeys(admin: Hono<GatewayEnv>): void {
  admin.get('/keys', async (c) => {
    const rows = await c.get('db').select(shown).from(keys).where(isNull(keys.tenantId)).limit(MAX_ROWS)
    return c.json({ data: rows })
  })
  admin.post('/keys', async (c) => {
    const { expiresAt } = await readBody(c, AdminKeyBody)
    return mint(c, { class: 'admin', tenantId: null, userId: null }, expiresAt ?? null)
  })

  admin.get('/tenants/:tenant/keys', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const rows = await c.get('db').select(shown).from(keys).where(eq(keys.tenantId, tenantId)).limit(MAX_ROWS)
    return c.json({ data: rows })
  })
  admin.post('/tenants/:tenant/keys', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const { user, expiresAt } = await readBody(c, UserKeyBody)
    return mint(c, { class: 'user', tenantId, userId: user ?? null }, expiresAt ?? null)
  })

  admin.patch('/keys/:key', async (c) => {
    const id = readParam(c, 'key', KeyId)
    const { disabled } = await readBody(c, Patch)
    if (disabled && id === adminKeyId(c)) {
      throw badRequest('A key cannot disable itself; use another admin key.', 'own_key')
    }
    const db = c.get('db')
    const [before] = await db.select(shown).from(keys).where(eq(keys.id, id))
    if (before === undefined) throw notFound()
    const after = { ...before, disabled }
    const write = db.update(keys).set({ disabled }).where(eq(keys.id, id))
    await recordChange(c, { action: 'key.patch', resource: id, before, after, writes: [write] })
    return c.json(after)
  })
}
