// Reads a principal and everything that decides what it may use, in one D1 round trip.
import { and, asc, eq, exists, inArray, isNotNull, or, type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import {
  adapters,
  adapterTags,
  arms,
  backendAdapters,
  backends,
  bases,
  compiles,
  experiments,
  grants,
  groups,
  keys,
  limits,
  models,
  policyEpochs,
  prices,
  roles,
  tenants,
  userGroups,
  userRoles,
  users,
} from '../database/schema.ts'
import type { StoredKey } from '../identity/keys.ts'
import { indexGrants, readGrant } from './index-grants.ts'
import type { Policy, Registry } from './policy.ts'
import { readRegistry } from './read-registry.ts'

export interface KeyRecord extends StoredKey {
  readonly class: 'user' | 'admin'
  /** Neither it nor its user nor its tenant is disabled. */
  readonly enabled: boolean
  readonly expiresAt: number | null
}

/** Good at this moment: a record may have been read a while ago. */
export const isLive = ({ enabled, expiresAt }: KeyRecord, now: number): boolean =>
  enabled && (expiresAt === null || now < expiresAt)

type KeyRow = typeof keys.$inferSelect

function readKey(row: KeyRow, ownersEnabled: boolean): KeyRecord {
  const { id, mac, pepperVersion, last4, previousMac, previousPepperVersion, previousUntil, expiresAt } = row
  const previous =
    previousMac === null || previousPepperVersion === null || previousUntil === null
      ? null
      : { mac: previousMac, pepperVersion: previousPepperVersion, until: previousUntil }
  const enabled = ownersEnabled && !row.disabled
  return { id, class: row.class, mac, pepperVersion, last4, previous, enabled, expiresAt }
}

/** For the admin plane. A user key is recognised as one, but its owners are not looked at: it opens nothing there. */
export async function loadAdminKey(db: DrizzleD1Database, keyId: string): Promise<KeyRecord | undefined> {
  const [row] = await db.select().from(keys).where(eq(keys.id, keyId))
  return row && readKey(row, true)
}

/** Who asks: a key by its id, or a user of a tenant whose issuer has vouched for him and his groups. */
export type Caller =
  | { readonly kind: 'key'; readonly keyId: string }
  | {
      readonly kind: 'user'
      readonly tenantId: string
      readonly userId: string
      /** As the token says; those of the registry are added. */
      readonly groups: readonly string[]
    }

export interface Loaded {
  /** Null: the caller came without a key. */
  readonly key: KeyRecord | null
  /** Null: an admin key, or a caller whose tenant or user is gone or disabled. */
  readonly policy: Policy | null
  readonly tenantId: string | null
  /** Of all tenants, when it was read. */
  readonly epoch: number
  /** Names the state of the registry that the policy shares. */
  readonly registryVersion: string
}

/** Registries that the caller of `loadPolicy` has already, by version: what they hold is not read again. */
export type KnownRegistries = ReadonlyMap<string, Registry>

export async function loadPolicy(
  db: DrizzleD1Database,
  caller: Caller,
  known: KnownRegistries = new Map(),
): Promise<Loaded | undefined> {
  const keyId = caller.kind === 'key' ? caller.keyId : null
  const ofKey = (column: typeof keys.tenantId | typeof keys.userId): SQL =>
    sql`(select ${column} from ${keys} where ${keys.id} = ${keyId})`
  const tenantId = caller.kind === 'key' ? ofKey(keys.tenantId) : sql`${caller.tenantId}`
  const userId = caller.kind === 'key' ? ofKey(keys.userId) : sql`${caller.userId}`
  const version = sql<string>`(${tenantId} || '@' || (select coalesce(sum(epoch), 0) from ${policyEpochs} where tenant_id = '') || '.' || (select coalesce(sum(epoch), 0) from ${policyEpochs} where tenant_id = ${tenantId}))`
  const unread = sql`${version} not in (select value from json_each(${JSON.stringify([...known.keys()])}))`
  const tokenGroups = caller.kind === 'user' ? JSON.stringify(caller.groups) : '[]'
  const inToken = sql`(select value from json_each(${tokenGroups}))`
  const hasRole = db
    .select({ one: sql`1` })
    .from(userRoles)
    .where(and(eq(userRoles.tenantId, tenantId), eq(userRoles.userId, userId), eq(userRoles.roleId, grants.roleId)))
  const inGroup = db
    .select({ one: sql`1` })
    .from(userGroups)
    .where(
      and(eq(userGroups.tenantId, tenantId), eq(userGroups.userId, userId), eq(userGroups.groupId, grants.groupId)),
    )
  // One table per statement: D1's batch answers with objects, in which equal column names of a join overwrite each other.
  const [keyRows, [tenant], [user], roleRows, groupRows, grantRows, [state], ...registryRows] = await db.batch([
    db
      .select()
      .from(keys)
      .where(keyId === null ? sql`0` : eq(keys.id, keyId)),
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
    db
      .select({ id: groups.id, disabled: groups.disabled })
      .from(groups)
      .where(
        and(
          eq(groups.tenantId, tenantId),
          or(
            inArray(groups.id, inToken),
            inArray(
              groups.id,
              db
                .select({ id: userGroups.groupId })
                .from(userGroups)
                .where(and(eq(userGroups.tenantId, tenantId), eq(userGroups.userId, userId))),
            ),
          ),
        ),
      ),
    // Only what could apply to this principal; who it applies to is decided again in resolve-grants.ts.
    db
      .select()
      .from(grants)
      .where(
        and(
          eq(grants.tenantId, tenantId),
          or(
            eq(grants.principalKind, 'tenant'),
            keyId === null ? undefined : eq(grants.keyId, keyId),
            eq(grants.userId, userId),
            and(eq(grants.principalKind, 'role'), exists(hasRole)),
            and(eq(grants.principalKind, 'group'), or(inArray(grants.groupId, inToken), exists(inGroup))),
          ),
        ),
      ),
    db.select({ version, epoch: sql<number>`coalesce(max(${policyEpochs.epoch}), 0)` }).from(policyEpochs),
    db
      .select()
      .from(models)
      .where(and(eq(models.tenantId, tenantId), eq(models.disabled, false), unread))
      .orderBy(asc(models.name)),
    db
      .select()
      .from(adapters)
      .where(and(eq(adapters.tenantId, tenantId), unread)),
    db
      .select()
      .from(adapterTags)
      .where(and(eq(adapterTags.tenantId, tenantId), unread)),
    db
      .select()
      .from(experiments)
      .where(and(eq(experiments.tenantId, tenantId), unread)),
    db
      .select()
      .from(arms)
      .where(and(eq(arms.tenantId, tenantId), unread))
      .orderBy(asc(arms.position)),
    db
      .select()
      .from(bases)
      .where(and(eq(bases.disabled, false), unread)),
    db
      .select()
      .from(backends)
      .where(and(eq(backends.enabled, true), unread)),
    db
      .select({
        backendId: backendAdapters.backendId,
        digest: backendAdapters.digest,
        upstream: backendAdapters.upstream,
      })
      .from(backendAdapters)
      .where(
        and(
          eq(backendAdapters.status, 'active'),
          inArray(
            backendAdapters.digest,
            db.select({ digest: adapters.digest }).from(adapters).where(eq(adapters.tenantId, tenantId)),
          ),
          unread,
        ),
      ),
    // Merges of this tenant, and of others into a base that this tenant runs on.
    db
      .select({ tenantId: compiles.tenantId, artifact: compiles.artifact, parents: compiles.parents })
      .from(compiles)
      .where(
        and(
          unread,
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
    db
      .select()
      .from(limits)
      .where(and(eq(limits.tenantId, tenantId), eq(limits.disabled, false), unread)),
    db
      .select()
      .from(prices)
      .where(and(eq(prices.tenantId, tenantId), unread)),
  ])
  const [keyRow] = keyRows
  if (keyId !== null && keyRow === undefined) return undefined
  const registryVersion = state?.version ?? ''
  const epoch = state?.epoch ?? 0
  // A user of an issuer need not be in the registry; one that is there and disabled is out.
  const userEnabled =
    keyRow === undefined || keyRow.userId === null ? user?.disabled !== true : user?.disabled === false
  const ownersEnabled = keyRow?.class === 'admin' || (tenant?.disabled === false && userEnabled)
  const key = keyRow === undefined ? null : readKey(keyRow, ownersEnabled)
  const shared = { key, tenantId: tenant?.id ?? null, epoch, registryVersion }
  if (key?.class === 'admin' || tenant === undefined || (key === null && !ownersEnabled)) {
    return { ...shared, policy: null }
  }
  const read = () => readRegistry({ id: tenant.id, maxTokens: tenant.maxTokens }, registryRows)
  const enabledOnly = (rows: readonly { id: string; disabled: boolean }[]) =>
    rows.map(({ id, disabled }) => ({ id, enabled: !disabled }))
  return {
    ...shared,
    policy: {
      subject: {
        tenantId: tenant.id,
        keyId,
        userId: caller.kind === 'user' ? caller.userId : (keyRow?.userId ?? null),
        groups: enabledOnly(groupRows),
        roles: enabledOnly(roleRows),
        scopes: keyRow?.scopes ?? null,
      },
      grantsAbout: indexGrants(grantRows.map(readGrant)),
      registry: known.get(registryVersion) ?? read(),
    },
  }
}
