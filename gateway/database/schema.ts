// The registry in D1: who exists, and what may be used by whom. Records of what was done are in records.ts.
// Operator-chosen ids live within a tenant, so every key is (tenant, id) and a foreign key cannot cross tenants.
import { sql } from 'drizzle-orm'
import { check, foreignKey, index, integer, primaryKey, real, sqliteTable, text, unique } from 'drizzle-orm/sqlite-core'
import type { Action } from '../policy/actions.ts'
import { DRIVER_NAMES } from '../upstream/driver-names.ts'

export const flag = (name: string) => integer(name, { mode: 'boolean' })
/** Milliseconds since 1970, UTC. */
export const time = (name: string) => integer(name)
export const tenantId = () => text('tenant_id').notNull()

export const tenants = sqliteTable('tenants', {
  id: text('id').primaryKey(),
  /** Upper bound on the tokens that one request may generate; goes into the capability. */
  maxTokens: integer('max_tokens').notNull(),
  disabled: flag('disabled').notNull(),
  createdAt: time('created_at').notNull(),
})

export const users = sqliteTable(
  'users',
  {
    tenantId: tenantId().references(() => tenants.id),
    id: text('id').notNull(),
    disabled: flag('disabled').notNull(),
    createdAt: time('created_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.tenantId, t.id] })],
)

export const roles = sqliteTable(
  'roles',
  {
    tenantId: tenantId().references(() => tenants.id),
    id: text('id').notNull(),
    disabled: flag('disabled').notNull(),
    createdAt: time('created_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.tenantId, t.id] })],
)

export const userRoles = sqliteTable(
  'user_roles',
  { tenantId: tenantId(), userId: text('user_id').notNull(), roleId: text('role_id').notNull() },
  (t) => [
    primaryKey({ columns: [t.tenantId, t.userId, t.roleId] }),
    foreignKey({ columns: [t.tenantId, t.userId], foreignColumns: [users.tenantId, users.id] }),
    foreignKey({ columns: [t.tenantId, t.roleId], foreignColumns: [roles.tenantId, roles.id] }),
    index('user_roles_role').on(t.tenantId, t.roleId),
  ],
)

/** Who people are, as the tenant's directory says; a role is what they may do. */
export const groups = sqliteTable(
  'groups',
  {
    tenantId: tenantId().references(() => tenants.id),
    id: text('id').notNull(),
    disabled: flag('disabled').notNull(),
    createdAt: time('created_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.tenantId, t.id] })],
)

export const userGroups = sqliteTable(
  'user_groups',
  { tenantId: tenantId(), userId: text('user_id').notNull(), groupId: text('group_id').notNull() },
  (t) => [
    primaryKey({ columns: [t.tenantId, t.userId, t.groupId] }),
    foreignKey({ columns: [t.tenantId, t.userId], foreignColumns: [users.tenantId, users.id] }),
    foreignKey({ columns: [t.tenantId, t.groupId], foreignColumns: [groups.tenantId, groups.id] }),
    index('user_groups_group').on(t.tenantId, t.groupId),
  ],
)

/** OpenID Connect issuers whose tokens open a tenant. An issuer belongs to one tenant: its users are that tenant's. */
export const issuers = sqliteTable(
  'issuers',
  {
    tenantId: tenantId().references(() => tenants.id),
    id: text('id').notNull(),
    /** `iss` of its tokens, to the letter. */
    issuer: text('issuer').notNull().unique(),
    /** `aud` that its tokens must name. */
    audience: text('audience').notNull(),
    /** Where its public keys are. The only place that such an address comes from. */
    jwksUrl: text('jwks_url').notNull(),
    /** Algorithms that its signatures may have. */
    algorithms: text('algorithms', { mode: 'json' }).$type<readonly string[]>().notNull(),
    /** Claim whose strings are ids of groups of the tenant; none: groups are only those of the registry. */
    groupsClaim: text('groups_claim'),
    disabled: flag('disabled').notNull(),
    createdAt: time('created_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.tenantId, t.id] })],
)

export const keys = sqliteTable(
  'keys',
  {
    id: text('id').primaryKey(),
    class: text('class', { enum: ['user', 'admin'] }).notNull(),
    tenantId: text('tenant_id').references(() => tenants.id),
    userId: text('user_id'),
    /** HMAC-SHA-256 of the whole key under the pepper of that version, hex. */
    mac: text('mac').notNull(),
    pepperVersion: text('pepper_version').notNull(),
    last4: text('last4').notNull(),
    /** After a rotation, what the key was before is good until then. */
    previousMac: text('previous_mac'),
    previousPepperVersion: text('previous_pepper_version'),
    previousUntil: time('previous_until'),
    /** What the key may be used for at most, whatever is granted; null: no further bound. */
    scopes: text('scopes', { mode: 'json' }).$type<readonly Action[]>(),
    expiresAt: time('expires_at'),
    disabled: flag('disabled').notNull(),
    createdAt: time('created_at').notNull(),
  },
  (t) => [
    unique('keys_tenant_id').on(t.tenantId, t.id),
    foreignKey({ columns: [t.tenantId, t.userId], foreignColumns: [users.tenantId, users.id] }),
    index('keys_user').on(t.tenantId, t.userId),
    check(
      'keys_class',
      sql`(${t.class} = 'user' AND ${t.tenantId} IS NOT NULL) OR (${t.class} = 'admin' AND ${t.tenantId} IS NULL AND ${t.userId} IS NULL)`,
    ),
  ],
)

export const bases = sqliteTable('bases', {
  digest: text('digest').primaryKey(),
  disabled: flag('disabled').notNull(),
  createdAt: time('created_at').notNull(),
})

export const backends = sqliteTable(
  'backends',
  {
    id: text('id').primaryKey(),
    /** An origin. The only place that an upstream address comes from. */
    url: text('url').notNull(),
    baseDigest: text('base_digest')
      .notNull()
      .references(() => bases.digest),
    enabled: flag('enabled').notNull(),
    createdAt: time('created_at').notNull(),
    /** Whose language it speaks: a file in upstream/drivers/. */
    driver: text('driver', { enum: DRIVER_NAMES }).notNull().default('sidepath'),
    /** What stands before the paths of its API. */
    prefix: text('prefix').notNull().default(''),
    /** Name of the binding that holds its credential; the credential itself is never here. */
    secret: text('secret'),
    /** What the base is called there. */
    baseModel: text('base_model').notNull().default(''),
    /** Whether adapters may be loaded over its API. */
    mayLoad: integer('may_load', { mode: 'boolean' }).notNull().default(false),
    /** Gets nothing new while another can. */
    draining: integer('draining', { mode: 'boolean' }).notNull().default(false),
  },
  (t) => [index('backends_base').on(t.baseDigest), unique('backends_address').on(t.url, t.prefix, t.baseModel)],
)

/**
 * What an adapter is called on a backend that is not ours. By digest, not by tenant: two tenants with the same adapter
 * share it, and no two adapters share a name there.
 */
export const backendAdapters = sqliteTable(
  'backend_adapters',
  {
    backendId: text('backend_id')
      .notNull()
      .references(() => backends.id),
    digest: text('digest').notNull(),
    upstream: text('upstream').notNull(),
    /** Where that backend finds the files; null: it has them already. */
    source: text('source'),
    /** Only `active` is served, and only a probe makes it so. */
    status: text('status', { enum: ['untested', 'active', 'refused'] }).notNull(),
    reason: text('reason'),
    probedAt: time('probed_at'),
    /** Moves with each change of what is served under this name: a probe of an earlier one activates nothing. */
    revision: integer('revision').notNull(),
    createdAt: time('created_at').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.backendId, t.digest] }),
    unique('backend_adapters_upstream').on(t.backendId, t.upstream),
    index('backend_adapters_digest').on(t.digest),
  ],
)

export const adapters = sqliteTable(
  'adapters',
  {
    tenantId: tenantId().references(() => tenants.id),
    id: text('id').notNull(),
    name: text('name').notNull(),
    version: integer('version').notNull(),
    digest: text('digest').notNull(),
    baseDigest: text('base_digest')
      .notNull()
      .references(() => bases.digest),
    disabled: flag('disabled').notNull(),
    createdAt: time('created_at').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.tenantId, t.id] }),
    unique('adapters_name_version').on(t.tenantId, t.name, t.version),
    index('adapters_base').on(t.baseDigest),
  ],
)

/** Labels that grants can name instead of adapters. */
export const adapterTags = sqliteTable(
  'adapter_tags',
  { tenantId: tenantId(), adapterId: text('adapter_id').notNull(), tag: text('tag').notNull() },
  (t) => [
    primaryKey({ columns: [t.tenantId, t.adapterId, t.tag] }),
    foreignKey({ columns: [t.tenantId, t.adapterId], foreignColumns: [adapters.tenantId, adapters.id] }),
    index('adapter_tags_tag').on(t.tenantId, t.tag),
  ],
)

/** An adapter as it was when a compile of it was asked for. */
export interface CompileParent {
  readonly adapter: string
  readonly name: string
  readonly digest: string
  readonly weight: number
}

/** Jobs of the compiler service, by the tenant that they are for. Settled once. */
export const compiles = sqliteTable(
  'compiles',
  {
    tenantId: tenantId().references(() => tenants.id),
    /** Id of the job: the digest of its recipe. */
    job: text('job').notNull(),
    /** For people; a second try of a merge may have the name of the first. */
    name: text('name').notNull(),
    target: text('target', { enum: ['merged', 'stacked'] }).notNull(),
    baseDigest: text('base_digest')
      .notNull()
      .references(() => bases.digest),
    parents: text('parents', { mode: 'json' }).$type<readonly CompileParent[]>().notNull(),
    /** `mismatch`: what came back is not made of the parents, and nothing of it is registered. */
    status: text('status', { enum: ['open', 'done', 'mismatch'] }).notNull(),
    /** The result, which is a base of its own. */
    artifact: text('artifact').references(() => bases.digest),
    createdAt: time('created_at').notNull(),
    settledAt: time('settled_at'),
  },
  (t) => [
    primaryKey({ columns: [t.tenantId, t.job] }),
    index('compiles_base').on(t.baseDigest),
    index('compiles_artifact').on(t.artifact),
  ],
)

/** Experiments of one namespace exclude each other where their ranges do: no subject is in two of them. */
export interface Namespace {
  readonly id: string
  /** Of 1,000; the range is [start, end). */
  readonly start: number
  readonly end: number
}

/** Worse than the control by more than `margin`, by an anytime-valid bound, and the arm is stopped. */
export interface Guardrail {
  readonly metric: 'error' | 'refusal' | 'ttft'
  /** In the unit of the metric: a share of requests, or milliseconds. */
  readonly margin: number
}

/** How an experiment ended: which arm won, and the models that were pointed at it. */
export interface Verdict {
  readonly arm: string
  readonly models: readonly string[]
  readonly at: number
}

export const experiments = sqliteTable(
  'experiments',
  {
    tenantId: tenantId().references(() => tenants.id),
    id: text('id').notNull(),
    seed: text('seed').notNull(),
    /** A new version forgets the sticky assignments: needed when weights change. */
    bucketVersion: integer('bucket_version').notNull(),
    status: text('status', { enum: ['draft', 'running', 'stopped'] }).notNull(),
    /** Of 10,000: the part of each arm's range that is in the experiment, from the start of the range. */
    coverage: integer('coverage').notNull().default(10_000),
    namespace: text('namespace', { mode: 'json' }).$type<Namespace>(),
    guardrails: text('guardrails', { mode: 'json' }).$type<readonly Guardrail[]>().notNull().default([]),
    verdict: text('verdict', { mode: 'json' }).$type<Verdict>(),
    /** Counts verdicts: one that was given meanwhile makes the next fail, by trigger. */
    verdicts: integer('verdicts').notNull().default(0),
    createdAt: time('created_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.tenantId, t.id] })],
)

export const arms = sqliteTable(
  'arms',
  {
    tenantId: tenantId(),
    experimentId: text('experiment_id').notNull(),
    id: text('id').notNull(),
    /** Order of the ranges; position 0 is the control. */
    position: integer('position').notNull(),
    /** Of 10,000. */
    weight: integer('weight').notNull(),
    adapterId: text('adapter_id'),
    baseDigest: text('base_digest').references(() => bases.digest),
    /** Nobody is assigned to it: it gets a copy of each request, and its answers are discarded. */
    shadow: flag('shadow').notNull().default(false),
    /** Since when a guardrail has it stopped, and what the guardrail saw. */
    stoppedAt: time('stopped_at'),
    stoppedBy: text('stopped_by', { mode: 'json' }).$type<Readonly<Record<string, unknown>>>(),
  },
  (t) => [
    primaryKey({ columns: [t.tenantId, t.experimentId, t.id] }),
    unique('arms_position').on(t.tenantId, t.experimentId, t.position),
    foreignKey({ columns: [t.tenantId, t.experimentId], foreignColumns: [experiments.tenantId, experiments.id] }),
    foreignKey({ columns: [t.tenantId, t.adapterId], foreignColumns: [adapters.tenantId, adapters.id] }),
    index('arms_adapter').on(t.tenantId, t.adapterId),
    index('arms_base').on(t.baseDigest),
    check('arms_target', sql`(${t.adapterId} IS NULL) <> (${t.baseDigest} IS NULL)`),
    check('arms_weight', sql`${t.weight} BETWEEN 0 AND 10000`),
  ],
)

/** What feedback may say: a number within bounds, by name. */
export const metrics = sqliteTable(
  'metrics',
  {
    tenantId: tenantId().references(() => tenants.id),
    id: text('id').notNull(),
    /** Which way is better. */
    better: text('better', { enum: ['higher', 'lower'] }).notNull(),
    min: real('min').notNull(),
    max: real('max').notNull(),
    createdAt: time('created_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.tenantId, t.id] }), check('metrics_bounds', sql`${t.min} < ${t.max}`)],
)

export const models = sqliteTable(
  'models',
  {
    tenantId: tenantId().references(() => tenants.id),
    /** The public name. */
    name: text('name').notNull(),
    adapterId: text('adapter_id'),
    baseDigest: text('base_digest').references(() => bases.digest),
    experimentId: text('experiment_id'),
    disabled: flag('disabled').notNull(),
    /** Its place among those that `auto` tries, the lowest first; null: not among them. */
    autoRank: integer('auto_rank'),
    createdAt: time('created_at').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.tenantId, t.name] }),
    foreignKey({ columns: [t.tenantId, t.adapterId], foreignColumns: [adapters.tenantId, adapters.id] }),
    foreignKey({ columns: [t.tenantId, t.experimentId], foreignColumns: [experiments.tenantId, experiments.id] }),
    index('models_adapter').on(t.tenantId, t.adapterId),
    index('models_base').on(t.baseDigest),
    index('models_experiment').on(t.tenantId, t.experimentId),
    check(
      'models_target',
      sql`(${t.adapterId} IS NOT NULL) + (${t.baseDigest} IS NOT NULL) + (${t.experimentId} IS NOT NULL) = 1`,
    ),
  ],
)

export const grants = sqliteTable(
  'grants',
  {
    tenantId: tenantId().references(() => tenants.id),
    id: text('id').notNull(),
    effect: text('effect', { enum: ['allow', 'deny'] }).notNull(),
    /** At least one. */
    actions: text('actions', { mode: 'json' }).$type<readonly Action[]>().notNull(),
    /** Said outright, so that "every principal of the tenant" is never what is left when a column is empty. */
    principalKind: text('principal_kind', { enum: ['key', 'user', 'group', 'role', 'tenant'] }).notNull(),
    keyId: text('key_id'),
    userId: text('user_id'),
    groupId: text('group_id'),
    roleId: text('role_id'),
    adapterId: text('adapter_id'),
    tag: text('tag'),
    baseDigest: text('base_digest').references(() => bases.digest),
    startsAt: time('starts_at'),
    endsAt: time('ends_at'),
    createdAt: time('created_at').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.tenantId, t.id] }),
    foreignKey({ columns: [t.tenantId, t.keyId], foreignColumns: [keys.tenantId, keys.id] }),
    foreignKey({ columns: [t.tenantId, t.userId], foreignColumns: [users.tenantId, users.id] }),
    foreignKey({ columns: [t.tenantId, t.groupId], foreignColumns: [groups.tenantId, groups.id] }),
    foreignKey({ columns: [t.tenantId, t.roleId], foreignColumns: [roles.tenantId, roles.id] }),
    foreignKey({ columns: [t.tenantId, t.adapterId], foreignColumns: [adapters.tenantId, adapters.id] }),
    index('grants_key').on(t.tenantId, t.keyId),
    index('grants_user').on(t.tenantId, t.userId),
    index('grants_group').on(t.tenantId, t.groupId),
    index('grants_role').on(t.tenantId, t.roleId),
    index('grants_adapter').on(t.tenantId, t.adapterId),
    index('grants_base').on(t.baseDigest),
    check(
      'grants_principal',
      sql`(${t.keyId} IS NOT NULL) = (${t.principalKind} = 'key') AND (${t.userId} IS NOT NULL) = (${t.principalKind} = 'user') AND (${t.groupId} IS NOT NULL) = (${t.principalKind} = 'group') AND (${t.roleId} IS NOT NULL) = (${t.principalKind} = 'role')`,
    ),
    check(
      'grants_resource',
      sql`(${t.adapterId} IS NOT NULL) + (${t.tag} IS NOT NULL) + (${t.baseDigest} IS NOT NULL) = 1`,
    ),
    check('grants_actions', sql`json_array_length(${t.actions}) > 0`),
  ],
)

/** What may be used in a window of time, at most. */
export const limits = sqliteTable(
  'limits',
  {
    tenantId: tenantId().references(() => tenants.id),
    id: text('id').notNull(),
    /** `each-…`: a count of its own for every one of them. */
    scope: text('scope', {
      enum: ['tenant', 'key', 'user', 'adapter', 'each-key', 'each-user', 'each-adapter'],
    }).notNull(),
    keyId: text('key_id'),
    /** No foreign key, since an issuer's users need not be in the registry. */
    userId: text('user_id'),
    adapterId: text('adapter_id'),
    metric: text('metric', { enum: ['requests', 'tokens', 'cost'] }).notNull(),
    window: text('window', { enum: ['minute', 'day'] }).notNull(),
    amount: integer('amount').notNull(),
    disabled: flag('disabled').notNull(),
    createdAt: time('created_at').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.tenantId, t.id] }),
    foreignKey({ columns: [t.tenantId, t.keyId], foreignColumns: [keys.tenantId, keys.id] }),
    foreignKey({ columns: [t.tenantId, t.adapterId], foreignColumns: [adapters.tenantId, adapters.id] }),
    index('limits_key').on(t.tenantId, t.keyId),
    index('limits_adapter').on(t.tenantId, t.adapterId),
    check(
      'limits_scope',
      sql`(${t.keyId} IS NOT NULL) = (${t.scope} = 'key') AND (${t.userId} IS NOT NULL) = (${t.scope} = 'user') AND (${t.adapterId} IS NOT NULL) = (${t.scope} = 'adapter')`,
    ),
    check('limits_amount', sql`${t.amount} >= 0`),
  ],
)

/** What tokens cost: micro-units of the operator's currency for a million of them. */
export const prices = sqliteTable(
  'prices',
  {
    tenantId: tenantId().references(() => tenants.id),
    id: text('id').notNull(),
    adapterId: text('adapter_id'),
    baseDigest: text('base_digest').references(() => bases.digest),
    promptPrice: integer('prompt_price').notNull(),
    completionPrice: integer('completion_price').notNull(),
    createdAt: time('created_at').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.tenantId, t.id] }),
    foreignKey({ columns: [t.tenantId, t.adapterId], foreignColumns: [adapters.tenantId, adapters.id] }),
    unique('prices_adapter').on(t.tenantId, t.adapterId),
    unique('prices_base').on(t.tenantId, t.baseDigest),
    index('prices_of_base').on(t.baseDigest),
    check('prices_resource', sql`(${t.adapterId} IS NULL) <> (${t.baseDigest} IS NULL)`),
  ],
)

/**
 * When a tenant's part of the registry last changed, on one counter for all; tenant '' is what belongs to none.
 * Kept by triggers, so that no way of writing can forget it: a decision that is kept is good only for its epoch.
 */
export const policyEpochs = sqliteTable(
  'policy_epochs',
  { tenantId: text('tenant_id').primaryKey(), epoch: integer('epoch').notNull() },
  (t) => [index('policy_epochs_epoch').on(t.epoch)],
)
