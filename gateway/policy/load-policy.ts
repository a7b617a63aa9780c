// Reads a key and everything that decides what it may use, in one D1 round trip.
import { and, asc, eq, exists, inArray, isNotNull, or, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import {
  adapters,
  arms,
  backends,
  bases,
  compiles,
  experiments,
  grants,
  keys,
  models,
  roles,
  tenants,
  userRoles,
  users,
} from '../database/schema.ts'
import type { StoredKey } from '../identity/keys.ts'
import { adaptersIn, readAdapter } from './merged-adapters.ts'
import type { Experiment, Model, Policy } from './policy.ts'
import type { Grant, Target } from './resolve-grants.ts'

export interface KeyRecord extends StoredKey {
  readonly class: 'user' | 'admin'
  /** Not disabled, nor its user, nor its tenant; not expired. */
  readonly live: boolean
}

type KeyRow = typeof keys.$inferSelect

function readKey(row: KeyRow, ownersLive: boolean, now: number): KeyRecord {
  const { id, mac, pepperVersion, last4 } = row
  const live = ownersLive && !row.disabled && (row.expiresAt === null || now < row.expiresAt)
  return { id, class: row.class, mac, pepperVersion, last4, live }
}

/** For the admin plane. A user key is recognised as one, but its owners are not looked at: it opens nothing there. */
export async function loadAdminKey(db: DrizzleD1Database, keyId: string, now: number): Promise<KeyRecord | undefined> {
  const [row] = await db.select().from(keys).where(eq(keys.id, keyId))
  return row && readKey(row, true, now)
}

type GrantRow = typeof grants.$inferSelect

function readGrant(row: GrantRow): Grant {
  const principalId = row.keyId ?? row.userId ?? row.roleId
  const principal: Grant['principal'] | null =
    row.principalKind === 'tenant'
      ? { kind: 'tenant' }
      : principalId === null
        ? null
        : { kind: row.principalKind, id: principalId }
  const resource: Grant['resource'] | null =
    row.adapterId !== null
      ? { kind: 'adapter', id: row.adapterId }
      : row.baseDigest !== null
        ? { kind: 'base', digest: row.baseDigest }
        : null
  if (principal === null || resource === null) throw new Error('a grant row names no principal or no resource')
  const { tenantId, id, effect, startsAt, endsAt } = row
  return { tenantId, id, effect, principal, resource, startsAt, endsAt }
}

export async function loadPolicy(
  db: DrizzleD1Database,
  keyId: string,
  now: number,
): Promise<{ key: KeyRecord; policy: Policy | null } | undefined> {
  const tenantId = sql`(select ${keys.tenantId} from ${keys} where ${keys.id} = ${keyId})`
  const userId = sql`(select ${keys.userId} from ${keys} where ${keys.id} = ${keyId})`
  const hasRole = db
    .select({ one: sql`1` })
    .from(userRoles)
    .where(and(eq(userRoles.tenantId, tenantId), eq(userRoles.userId, userId), eq(userRoles.roleId, grants.roleId)))
  // One table per statement: D1's batch answers with objects, in which equal column names of a join overwrite each other.
  const rows = await db.batch([
    db.select().from(keys).where(eq(keys.id, keyId)),
    db.select().from(tenants).where(eq(tenants.id, tenantId)),
    db
      .select()
      .from(users)
      .where(and(eq(users.tenantId, tenantId), eq(users.id, userId))),
    db
      .select({ id: roles.id, disabled: roles.disabled })
      .from(userRoles)
      .innerJoin(roles, and(eq(roles.tenantId, userRoles.tenantId), eq(roles.id, userRoles.roleId)))
      .where(and(eq(userRoles.tenantId, tenantId), eq(userRoles.userId, userId))),
    // Only what could apply to this principal; who it applies to is decided again in resolve-grants.ts.
    db
      .select()
      .from(grants)
      .where(
        and(
          eq(grants.tenantId, tenantId),
          or(
            eq(grants.principalKind, 'tenant'),
            eq(grants.keyId, keyId),
            eq(grants.userId, userId),
            and(eq(grants.principalKind, 'role'), exists(hasRole)),
          ),
        ),
      ),
    db
      .select()
      .from(models)
      .where(and(eq(models.tenantId, tenantId), eq(models.disabled, false)))
      .orderBy(asc(models.name)),
    db.select().from(adapters).where(eq(adapters.tenantId, tenantId)),
    db.select().from(experiments).where(eq(experiments.tenantId, tenantId)),
    db.select().from(arms).where(eq(arms.tenantId, tenantId)).orderBy(asc(arms.position)),
    db.select().from(bases).where(eq(bases.disabled, false)),
    db.select().from(backends).where(eq(backends.enabled, true)),
    // Merges of this tenant, and of others into a base that this tenant runs on.
    db
      .select({ tenantId: compiles.tenantId, artifact: compiles.artifact, parents: compiles.parents })
      .from(compiles)
      .where(
        and(
          isNotNull(compiles.artifact),
          or(
            eq(compiles.tenantId, tenantId),
            ...[models, arms, adapters].map((table) =>
              inArray(
                compiles.artifact,
                db.select({ digest: table.baseDigest }).from(table).where(eq(table.tenantId, tenantId)),
              ),
            ),
          ),
        ),
      ),
  ])
  const [[keyRow], [tenant], [user], roleRows, grantRows, modelRows, adapterRows, ...others] = rows
  const [experimentRows, armRows, baseRows, backendRows, mergeRows] = others
  if (keyRow === undefined) return undefined
  const ownersLive =
    keyRow.class === 'admin' || (tenant?.disabled === false && (keyRow.userId === null || user?.disabled === false))
  const key = readKey(keyRow, ownersLive, now)
  if (key.class !== 'user' || tenant === undefined) return { key, policy: null }

  const enabledBases = new Set(baseRows.map((base) => base.digest))
  const adapterById = new Map(adapterRows.map((adapter) => [adapter.id, adapter]))
  const madeOf = adaptersIn(tenant.id, mergeRows, adapterRows, enabledBases)
  const readTarget = (row: { adapterId: string | null; baseDigest: string | null }): Target => {
    if (row.adapterId === null && row.baseDigest !== null) {
      const { baseDigest } = row
      return { kind: 'base', baseDigest, enabled: enabledBases.has(baseDigest), ...madeOf(baseDigest) }
    }
    const adapter = adapterById.get(row.adapterId ?? '')
    if (adapter === undefined) throw new Error('a model or arm row names no target')
    return { ...readAdapter(adapter, enabledBases), ...madeOf(adapter.baseDigest) }
  }
  const readExperiment = (id: string): Experiment => {
    const row = experimentRows.find((experiment) => experiment.id === id)
    if (row === undefined) throw new Error('a model row names no experiment')
    const { seed, bucketVersion, status } = row
    const own = armRows.filter((arm) => arm.experimentId === id)
    const read = own.map((arm) => ({ id: arm.id, weight: arm.weight, target: readTarget(arm) }))
    return { id, seed, bucketVersion, running: status === 'running', arms: read }
  }
  const readModel = (row: (typeof modelRows)[number]): Model => ({
    name: row.name,
    createdAt: row.createdAt,
    serves:
      row.experimentId !== null
        ? { kind: 'experiment', experiment: readExperiment(row.experimentId) }
        : { kind: 'target', target: readTarget(row) },
  })
  return {
    key,
    policy: {
      subject: {
        tenantId: tenant.id,
        keyId,
        userId: keyRow.userId,
        roles: roleRows.map((role) => ({ id: role.id, enabled: !role.disabled })),
      },
      maxTokens: tenant.maxTokens,
      grants: grantRows.map(readGrant),
      models: modelRows.map(readModel),
      backends: backendRows.map(({ id, url, baseDigest }) => ({ id, url, baseDigest })),
    },
  }
}
