// The records in D1: what was assigned, exposed, served, counted and changed. Written once or settled once, by trigger.
import { foreignKey, index, integer, primaryKey, real, sqliteTable, text } from 'drizzle-orm/sqlite-core'
import { adapters, arms, bases, flag, keys, tenantId, time } from './schema.ts'

/** One arm per subject, written once: a later change of weights does not move anybody. */
export const assignments = sqliteTable(
  'assignments',
  {
    tenantId: tenantId(),
    experimentId: text('experiment_id').notNull(),
    bucketVersion: integer('bucket_version').notNull(),
    /** SHA-256 of the stable subject, hex. */
    subject: text('subject').notNull(),
    armId: text('arm_id').notNull(),
    createdAt: time('created_at').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.tenantId, t.experimentId, t.bucketVersion, t.subject] }),
    foreignKey({
      columns: [t.tenantId, t.experimentId, t.armId],
      foreignColumns: [arms.tenantId, arms.experimentId, arms.id],
    }),
    index('assignments_arm').on(t.tenantId, t.experimentId, t.armId),
  ],
)

export const exposures = sqliteTable(
  'exposures',
  {
    tenantId: tenantId(),
    experimentId: text('experiment_id').notNull(),
    bucketVersion: integer('bucket_version').notNull(),
    subject: text('subject').notNull(),
    assignedArmId: text('assigned_arm_id').notNull(),
    servedArmId: text('served_arm_id').notNull(),
    /** False once the subject has been served another arm than the assigned one: permissions must not skew a result. */
    analysed: flag('analysed').notNull(),
    /** The first request that was exposed. */
    requestId: text('request_id').notNull(),
    createdAt: time('created_at').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.tenantId, t.experimentId, t.bucketVersion, t.subject] }),
    foreignKey({
      columns: [t.tenantId, t.experimentId, t.assignedArmId],
      foreignColumns: [arms.tenantId, arms.experimentId, arms.id],
    }),
    foreignKey({
      columns: [t.tenantId, t.experimentId, t.servedArmId],
      foreignColumns: [arms.tenantId, arms.experimentId, arms.id],
    }),
    index('exposures_assigned').on(t.tenantId, t.experimentId, t.assignedArmId),
    index('exposures_served').on(t.tenantId, t.experimentId, t.servedArmId),
  ],
)

/** One adapter of a mix, as it ran. */
export interface UsedPart {
  readonly adapter: string
  readonly digest: string
  readonly weight: number
  readonly grant: string
}

/** What decisions were made on: once for all that were made on the same. Written once, by trigger. */
export const facts = sqliteTable('facts', {
  /** SHA-256 of the text, hex. */
  digest: text('digest').primaryKey(),
  /** JSON: who asked, the models of the name, and the grants about what they lead to. */
  text: text('text').notNull(),
  createdAt: time('created_at').notNull(),
})

/** Of one window of one limit. */
export interface Hold {
  readonly limit: string
  /** Whose count it is, where the limit has one for each; else empty. */
  readonly subject: string
  readonly start: number
  readonly held: number
}

/** One row per dispatched request: opened before the backend sees it, settled once. Also the record of the decision. */
export const usage = sqliteTable(
  'usage',
  {
    requestId: text('request_id').primaryKey(),
    tenantId: tenantId(),
    /** Null: the caller came with a token of an issuer. */
    keyId: text('key_id'),
    /** The user of the key or of the token; no foreign key, since an issuer's users need not be in the registry. */
    userId: text('user_id'),
    model: text('model').notNull(),
    baseDigest: text('base_digest')
      .notNull()
      .references(() => bases.digest),
    /** Null: the base itself, or a mix. */
    adapterId: text('adapter_id'),
    adapterDigest: text('adapter_digest'),
    /** The grant that decided; no foreign key, since grants may be deleted and records may not. */
    grantId: text('grant_id').notNull(),
    experimentId: text('experiment_id'),
    bucketVersion: integer('bucket_version'),
    armId: text('arm_id'),
    /** What ran and which grant allowed it, part by part, where the model was a mix. `grantId` is the first part's. */
    mix: text('mix', { mode: 'json' }).$type<readonly UsedPart[]>(),
    /** The arm that the subject is assigned to, where it was asked for: kept from before, or that of its bucket. */
    assignedArmId: text('assigned_arm_id'),
    /** Digest of what the decision was made on; see `facts`. Null in rows of before these were kept. */
    factsDigest: text('facts_digest'),
    /** Digest of the decision, as the caller received it. */
    receipt: text('receipt').notNull(),
    status: text('status', { enum: ['open', 'settled', 'aborted', 'failed'] }).notNull(),
    /** Null after settling: the backend did not say. Unknown is not zero. */
    promptTokens: integer('prompt_tokens'),
    completionTokens: integer('completion_tokens'),
    ttftMs: integer('ttft_ms'),
    createdAt: time('created_at').notNull(),
    settledAt: time('settled_at'),
    /** As they were when the request began; null: the target had no price. */
    promptPrice: integer('prompt_price'),
    completionPrice: integer('completion_price'),
    /** What was charged to limits and, where there is a price, as `cost`: the tokens, their bound, or nothing. */
    charge: text('charge', { enum: ['measured', 'bound', 'nothing'] }),
    /** Micro-units, rounded up; null while open or without a price. */
    cost: integer('cost'),
    /** Of rows of before gateways leased what they hold: see `limitLeases`. */
    holds: text('holds', { mode: 'json' }).$type<readonly Hold[]>(),
    heldUntil: time('held_until'),
  },
  (t) => [
    foreignKey({ columns: [t.tenantId, t.keyId], foreignColumns: [keys.tenantId, keys.id] }),
    foreignKey({ columns: [t.tenantId, t.adapterId], foreignColumns: [adapters.tenantId, adapters.id] }),
    index('usage_created').on(t.tenantId, t.createdAt),
    index('usage_receipt').on(t.receipt),
    index('usage_experiment').on(t.tenantId, t.experimentId, t.bucketVersion),
  ],
)

/** What became of a request, as the caller's feedback or a rule says. Once per request and metric, by trigger. */
export const outcomes = sqliteTable(
  'outcomes',
  {
    tenantId: tenantId(),
    requestId: text('request_id')
      .notNull()
      .references(() => usage.requestId),
    metric: text('metric').notNull(),
    value: real('value').notNull(),
    source: text('source', { enum: ['feedback', 'rule'] }).notNull(),
    createdAt: time('created_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.requestId, t.source, t.metric] })],
)

/** Copies of requests that shadow arms answered, apart from usage: nobody pays for them. Settled once, by trigger. */
export const shadows = sqliteTable(
  'shadows',
  {
    /** The request that was copied. */
    requestId: text('request_id')
      .notNull()
      .references(() => usage.requestId),
    tenantId: tenantId(),
    experimentId: text('experiment_id').notNull(),
    bucketVersion: integer('bucket_version').notNull(),
    armId: text('arm_id').notNull(),
    subject: text('subject').notNull(),
    /** The grant that allowed it to this caller. */
    grantId: text('grant_id').notNull(),
    status: text('status', { enum: ['open', 'settled', 'failed'] }).notNull(),
    promptTokens: integer('prompt_tokens'),
    completionTokens: integer('completion_tokens'),
    ttftMs: integer('ttft_ms'),
    refused: flag('refused'),
    createdAt: time('created_at').notNull(),
    settledAt: time('settled_at'),
  },
  (t) => [
    primaryKey({ columns: [t.requestId, t.armId] }),
    foreignKey({
      columns: [t.tenantId, t.experimentId, t.armId],
      foreignColumns: [arms.tenantId, arms.experimentId, arms.id],
    }),
    index('shadows_arm').on(t.tenantId, t.experimentId, t.armId),
  ],
)

/** Append-only and a chain, by trigger: see audit-chain.ts. */
export const audit = sqliteTable('audit', {
  /** Without gaps since rows are chained. */
  id: integer('id').primaryKey({ autoIncrement: true }),
  at: time('at').notNull(),
  /** Id of the admin key, or `bootstrap`. */
  actor: text('actor').notNull(),
  action: text('action').notNull(),
  resource: text('resource').notNull(),
  beforeDigest: text('before_digest'),
  afterDigest: text('after_digest'),
  /** Unique: a chain does not fork. Null in rows of before the chain, which its first row covers. */
  previousHash: text('previous_hash').unique(),
  hash: text('hash'),
})

/** What was used of a limit in a window [start, end), and what running requests hold of it. Old windows go, by trigger. */
export const limitWindows = sqliteTable(
  'limit_windows',
  {
    tenantId: tenantId(),
    limitId: text('limit_id').notNull(),
    subject: text('subject').notNull(),
    start: time('start').notNull(),
    end: time('end').notNull(),
    used: integer('used').notNull(),
    held: integer('held').notNull(),
  },
  (t) => [primaryKey({ columns: [t.tenantId, t.limitId, t.subject, t.start] })],
)

/**
 * What one gateway holds of one window, for its requests that run and for those that it may admit next; part of the
 * window's `held`. Goes when the gateway gives it back.
 */
export const limitLeases = sqliteTable(
  'limit_leases',
  {
    id: text('id').primaryKey(),
    tenantId: tenantId(),
    limitId: text('limit_id').notNull(),
    subject: text('subject').notNull(),
    start: time('start').notNull(),
    /** What is left of it. */
    amount: integer('amount').notNull(),
    /** What was added to it last. */
    added: integer('added').notNull(),
    /** How often its gateway has reported; a report that comes twice counts once. */
    reports: integer('reports').notNull(),
    /** After it, the gateway has died: what is left is free again. */
    until: time('until').notNull(),
  },
  (t) => [index('limit_leases_until').on(t.until)],
)

/** A request that is to run once: claimed with its admission, and what became of it. Goes when it expires. */
export const idempotency = sqliteTable(
  'idempotency',
  {
    tenantId: tenantId(),
    /** The key or, of a token, the user: nobody meets the keys of another. */
    principal: text('principal').notNull(),
    /** SHA-256 of the header, hex. */
    keyDigest: text('key_digest').notNull(),
    /** Of what was asked: the route and the body. */
    fingerprint: text('fingerprint').notNull(),
    /** Of what ran, so that an answer is not given again once the name leads elsewhere. */
    runs: text('runs').notNull(),
    requestId: text('request_id').notNull(),
    receipt: text('receipt').notNull(),
    /** `spent`: charged, and the answer is not there to be given again. */
    status: text('status', { enum: ['running', 'kept', 'spent'] }).notNull(),
    answer: text('answer'),
    createdAt: time('created_at').notNull(),
    expiresAt: time('expires_at').notNull(),
  },
  (t) => [
    primaryKey({ columns: [t.tenantId, t.principal, t.keyDigest] }),
    index('idempotency_expires').on(t.expiresAt),
    index('idempotency_request').on(t.requestId),
  ],
)

/** When a key was last used, to the minute or so. Apart from `keys`: a use is no change of the policy. */
export const keyUses = sqliteTable('key_uses', {
  keyId: text('key_id')
    .primaryKey()
    .references(() => keys.id),
  lastUsedAt: time('last_used_at').notNull(),
})
