// Keys: minted here and shown once; afterwards only their last four characters are known.
import { eq, isNull, type SQL } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import { adminKeyId, type GatewayContext, type GatewayEnv } from '../context.ts'
import { keyUses } from '../database/records.ts'
import { keys } from '../database/schema.ts'
import { badRequest, notFound } from '../errors.ts'
import { mintKey } from '../identity/keys.ts'
import { type Action, Actions } from '../policy/actions.ts'
import { Id, KeyId, MAX_ROWS, readBody, readParam, Time } from './read-input.ts'
import { recordChange } from './record-change.ts'

export const AdminKeyBody = z.strictObject({ expiresAt: Time.nullish() })
export const UserKeyBody = AdminKeyBody.extend({
  user: Id.nullish(),
  /** What the key is good for at most; left out, no bound beyond the grants. */
  scopes: Actions.nullish(),
})
/** Longer overlaps are two keys, not a rotation. */
const MAX_OVERLAP_MS = 30 * 24 * 60 * 60 * 1000
export const Rotation = z.strictObject({ overlapMs: z.int().min(0).max(MAX_OVERLAP_MS).default(0) })
export const Patch = z.strictObject({ disabled: z.boolean() })

/** Everything but the MAC, which never leaves the database. */
const shown = {
  id: keys.id,
  class: keys.class,
  tenantId: keys.tenantId,
  userId: keys.userId,
  last4: keys.last4,
  pepperVersion: keys.pepperVersion,
  previousUntil: keys.previousUntil,
  scopes: keys.scopes,
  expiresAt: keys.expiresAt,
  disabled: keys.disabled,
  createdAt: keys.createdAt,
}

async function mint(
  c: GatewayContext,
  owner: {
    class: 'user' | 'admin'
    tenantId: string | null
    userId: string | null
    scopes: readonly Action[] | null
  },
  expiresAt: number | null,
): Promise<Response> {
  const { environment, peppers } = c.get('config')
  const { key, mac, ...stored } = mintKey(environment, peppers)
  const after = { ...stored, ...owner, expiresAt, disabled: false, createdAt: c.get('world').now() }
  const write = c
    .get('db')
    .insert(keys)
    .values({ ...after, mac })
  await recordChange(c, { action: 'key.mint', resource: stored.id, before: undefined, after, writes: [write] })
  return c.json({ ...after, key }, 201)
}

/** With the minute of the last use, null where there was none. */
async function list(c: GatewayContext, which: SQL) {
  return c
    .get('db')
    .select({ ...shown, lastUsedAt: keyUses.lastUsedAt })
    .from(keys)
    .leftJoin(keyUses, eq(keyUses.keyId, keys.id))
    .where(which)
    .limit(MAX_ROWS)
}

export function addKeys(admin: Hono<GatewayEnv>): void {
  admin.get('/keys', async (c) => {
    return c.json({ data: await list(c, isNull(keys.tenantId)) })
  })
  admin.post('/keys', async (c) => {
    const { expiresAt } = await readBody(c, AdminKeyBody)
    return mint(c, { class: 'admin', tenantId: null, userId: null, scopes: null }, expiresAt ?? null)
  })

  admin.get('/tenants/:tenant/keys', async (c) => {
    const tenantId = readParam(c, 'tenant')
    return c.json({ data: await list(c, eq(keys.tenantId, tenantId)) })
  })
  admin.post('/tenants/:tenant/keys', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const { user, scopes, expiresAt } = await readBody(c, UserKeyBody)
    return mint(c, { class: 'user', tenantId, userId: user ?? null, scopes: scopes ?? null }, expiresAt ?? null)
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

  // The id, its owner and its grants stay; the secret is new, and the old one is good for the overlap.
  admin.post('/keys/:key/rotate', async (c) => {
    const id = readParam(c, 'key', KeyId)
    const { overlapMs } = await readBody(c, Rotation)
    const { environment, peppers } = c.get('config')
    const db = c.get('db')
    const [row] = await db.select().from(keys).where(eq(keys.id, id))
    if (row === undefined) throw notFound()
    const { key, mac, pepperVersion, last4 } = mintKey(environment, peppers, id)
    const previousUntil = c.get('world').now() + overlapMs
    const changed = { pepperVersion, last4, previousUntil }
    const write = db
      .update(keys)
      .set({ ...changed, mac, previousMac: row.mac, previousPepperVersion: row.pepperVersion })
      .where(eq(keys.id, id))
    const { mac: _mac, previousMac: _previousMac, previousPepperVersion: _version, ...before } = row
    const after = { ...before, ...changed }
    await recordChange(c, { action: 'key.rotate', resource: id, before, after, writes: [write] })
    return c.json({ ...after, key })
  })
}
