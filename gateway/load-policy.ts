// Reads a key and everything that decides what it may use, in one D1 round trip.
import { and, asc, eq, exists, or, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { StoredKey } from './keys.ts'
import type { Arm, Experiment, Model, Policy } from './policy.ts'
import type { Grant, Target } from './resolve-grants.ts'
import {
  adapters,
  arms,
  backends,
  bases,
  experiments,
  grants,
  keys,
  models,
  roles,
  tenants,
  userRoles,
  users,
} from './schema.ts'

export interface KeyRecord extends StoredKey {
  readonly class: 'user' | 'admin'
  /** Not disabled, nor its user, nor its tenant; not expired. */
  readonly live: boolean
}

function selectKey(db: DrizzleD1Database, keyId: string) {
  return db
    .select({ key: keys, tenant: tenants, user: users })
    .from(keys)
    .leftJoin(tenants, eq(tenants.id, keys.tenantId))
    .leftJoin(users, and(eq(users.tenantId, keys.tenantId), eq(users.id, keys.userId)))
    .where(eq(keys.id, keyId))
}

type KeyRow = Awaited<ReturnType<typeof selectKey>>[number]

function readKeyRow(row: KeyRow, now: number): KeyRecord {
  const { key, tenant, user } = row
  const live =
    !key.disabled &&
    (key.expiresAt === null || now < key.expiresAt) &&
    (key.class === 'admin' || (tenant !== null && !tenant.disabled)) &&
    (key.userId === null || (user !== null && !user.disabled))
  return { id: key.id, class: key.class, mac: key.mac, pepperVersion: key.pepperVersion, last4: key.last4, live }
}

export async function loadKey(db: DrizzleD1Database, keyId: string, now: number): Promise<KeyRecord | undefined> {
  const [row] = await selectKey(db, keyId)
  return row && readKeyRow(row, now)
}

type GrantRow = typeof grants.$inferSelect
type AdapterRow = typeof adapters.$inferSelect

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

function readTarget(adapter: AdapterRow | null, baseDigest: string | null, enabledBases: ReadonlySet<string>): Target {
  if (adapter !== null) {
    const { tenantId, id, digest, disabled } = adapter
    const enabled = !disabled && enabledBases.has(adapter.baseDigest)
    return { kind: 'adapter', tenantId, id, digest, baseDigest: adapter.baseDigest, enabled }
  }
  if (baseDigest === null) throw new Error('a model or arm row names no target')
  return { kind: 'base', baseDigest, enabled: enabledBases.has(baseDigest) }
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
  const [keyRows, roleRows, grantRows, modelRows, armRows, baseRows, backendRows] = await db.batch([
    selectKey(db, keyId),
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
      .select({ model: models, adapter: adapters })
      .from(models)
      .leftJoin(adapters, and(eq(adapters.tenantId, models.tenantId), eq(adapters.id, models.adapterId)))
      .where(and(eq(models.tenantId, tenantId), eq(models.disabled, false)))
      .orderBy(asc(models.name)),
    db
      .select({ experiment: experiments, arm: arms, adapter: adapters })
      .from(arms)
      .innerJoin(experiments, and(eq(experiments.tenantId, arms.tenantId), eq(experiments.id, arms.experimentId)))
      .leftJoin(adapters, and(eq(adapters.tenantId, arms.tenantId), eq(adapters.id, arms.adapterId)))
      .where(eq(arms.tenantId, tenantId))
      .orderBy(asc(arms.experimentId), asc(arms.position)),
    db.select({ digest: bases.digest }).from(bases).where(eq(bases.disabled, false)),
    db
      .select({ id: backends.id, url: backends.url, baseDigest: backends.baseDigest })
      .from(backends)
      .where(eq(backends.enabled, true)),
  ])

  const row = keyRows[0]
  if (row === undefined) return undefined
  const key = readKeyRow(row, now)
  if (key.class !== 'user' || row.key.tenantId === null || row.tenant === null) return { key, policy: null }

  const enabledBases = new Set(baseRows.map((base) => base.digest))
  const experimentArms = new Map<string, { experiment: (typeof armRows)[number]['experiment']; arms: Arm[] }>()
  for (const { experiment, arm, adapter } of armRows) {
    const entry = experimentArms.get(experiment.id) ?? { experiment, arms: [] }
    entry.arms.push({ id: arm.id, weight: arm.weight, target: readTarget(adapter, arm.baseDigest, enabledBases) })
    experimentArms.set(experiment.id, entry)
  }
  const readExperiment = (id: string): Experiment => {
    const entry = experimentArms.get(id)
    if (entry === undefined) throw new Error('an experiment has no arms')
    const { seed, bucketVersion, status } = entry.experiment
    return { id, seed, bucketVersion, running: status === 'running', arms: entry.arms }
  }
  const readModel = ({ model, adapter }: (typeof modelRows)[number]): Model => ({
    name: model.name,
    createdAt: model.createdAt,
    serves:
      model.experimentId !== null
        ? { kind: 'experiment', experiment: readExperiment(model.experimentId) }
        : { kind: 'target', target: readTarget(adapter, model.baseDigest, enabledBases) },
  })
  return {
    key,
    policy: {
      subject: {
        tenantId: row.key.tenantId,
        keyId,
        userId: row.key.userId,
        roles: roleRows.map((role) => ({ id: role.id, enabled: !role.disabled })),
      },
      maxTokens: row.tenant.maxTokens,
      grants: grantRows.map(readGrant),
      models: modelRows.map(readModel),
      backends: backendRows,
    },
  }
}
