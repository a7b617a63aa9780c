// `Idempotency-Key`: a request under one key runs, and is charged, at most once. The key is claimed in the batch that admits
// the request, so of two at once one runs; a later one gets the kept answer, or is told why not.
import { and, eq, gt, lte, type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { insertWhere } from '../database/insert-where.ts'
import { idempotency, usage } from '../database/records.ts'
import { sha256 } from '../digest.ts'
import { badRequest, GatewayError } from '../errors.ts'
import type { Choice } from '../infer/choose-target.ts'
import type { InferRequest } from '../infer/parse-request.ts'
import type { Subject } from '../policy/resolve-grants.ts'

/** How long a key means its request. */
const KEPT_MS = 24 * 3_600_000
/**
 * When the claim of a request that never settled lapses: longer than two tries of a backend may take. A stream has no such
 * bound, so its claim is kept as long as any.
 */
const RUNNING_MS = 15 * 60_000
/** Larger answers are not kept: a row of D1 holds 2 MB, and 24 h of answers should stay small. */
export const MAX_KEPT_CHARS = 256 << 10
const KEY = /^[\x21-\x7e]{1,255}$/
const RETRY_S = 1

export interface Idempotent {
  readonly principal: string
  readonly keyDigest: string
  readonly fingerprint: string
  readonly runs: string
  readonly stream: boolean
}

type Row = typeof idempotency.$inferSelect

export interface Replay {
  readonly answer: string
  readonly receipt: string
}

/** Null: the caller gave no key. */
export function readIdempotencyKey(
  headers: Headers,
  subject: Subject,
  request: InferRequest,
  { target }: Choice,
): Idempotent | null {
  const key = headers.get('idempotency-key')
  if (key === null) return null
  if (!KEY.test(key)) {
    const message = "The header 'Idempotency-Key' must be 1 to 255 visible ASCII characters without spaces."
    throw badRequest(message, 'invalid_value', 'Idempotency-Key')
  }
  return {
    principal: subject.keyId === null ? `user ${subject.userId}` : `key ${subject.keyId}`,
    keyDigest: sha256(key),
    fingerprint: sha256(canonical([request.path, request.model.name, JSON.parse(request.body)])),
    runs: sha256(JSON.stringify([target.baseDigest, runningOf(target)])),
    stream: request.stream,
  }
}

function runningOf(target: Choice['target']): unknown {
  if (target.kind === 'base') return null
  return target.kind === 'adapter' ? target.digest : target.parts.map(({ adapter, weight }) => [adapter.digest, weight])
}

/** JSON with sorted keys: what is the same to a reader is the same text. */
function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`
  if (typeof value !== 'object' || value === null) return JSON.stringify(value) ?? 'null'
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1))
  return `{${entries.map(([key, item]) => `${JSON.stringify(key)}:${canonical(item)}`).join(',')}}`
}

const isSame = (tenantId: string, { principal, keyDigest }: Idempotent): SQL | undefined =>
  and(eq(idempotency.tenantId, tenantId), eq(idempotency.principal, principal), eq(idempotency.keyDigest, keyDigest))

/** For the condition of the admission. */
export const isUnclaimed = (tenantId: string, asked: Idempotent): SQL =>
  sql`not exists (select 1 from ${idempotency} where ${isSame(tenantId, asked)})`

/** For a request that finds no room: an answer that is kept takes none. */
export async function findEarlier(db: DrizzleD1Database, tenantId: string, asked: Idempotent, now: number) {
  const [row] = await db
    .select()
    .from(idempotency)
    .where(and(isSame(tenantId, asked), gt(idempotency.expiresAt, now)))
  return row
}

/** For the batch of the admission: the first two before it, `write` after it. */
export function claim(
  db: DrizzleD1Database,
  asked: Idempotent,
  { tenantId, requestId, receipt, createdAt }: Pick<Row, 'tenantId' | 'requestId' | 'receipt' | 'createdAt'>,
) {
  const { principal, keyDigest, fingerprint, runs, stream } = asked
  const expiresAt = createdAt + (stream ? KEPT_MS : RUNNING_MS)
  const request = { tenantId, requestId, receipt, createdAt, expiresAt }
  const row = { ...request, principal, keyDigest, fingerprint, runs, status: 'running', answer: null } as const
  const isAdmitted = sql`exists (select 1 from ${usage} where ${usage.requestId} = ${requestId})`
  return {
    // All that have expired, whosever: what callers said is not kept longer than promised.
    forgetExpired: db.delete(idempotency).where(lte(idempotency.expiresAt, createdAt)),
    write: insertWhere(db, idempotency, row, isAdmitted),
    findEarlier: db.select().from(idempotency).where(isSame(tenantId, asked)),
  }
}

/** What the claim of an earlier request means for this one. */
export function replay(row: Row, asked: Idempotent): Replay {
  if (row.fingerprint !== asked.fingerprint) {
    throw refuse(422, 'idempotency_key_reused', 'This Idempotency-Key was used with another request. Use a new one.')
  }
  if (row.status === 'running') {
    // Not 409, which SDKs take for a lost race and retry at once; 425 says what it is, and the headers when to come back.
    const message = 'The first request with this Idempotency-Key is still running. Retry for its answer.'
    throw refuse(425, 'idempotency_in_progress', message, true)
  }
  if (row.status === 'spent' || row.answer === null || row.runs !== asked.runs) {
    const message =
      'The request with this Idempotency-Key has run and was charged; its answer is not kept. Use a new key to run it again.'
    throw refuse(422, 'idempotency_not_replayable', message)
  }
  return { answer: row.answer, receipt: row.receipt }
}

function refuse(status: 422 | 425, code: string, message: string, again = false): GatewayError {
  return new GatewayError(
    status,
    { message, type: 'invalid_request_error', param: 'Idempotency-Key', code },
    { ...(again ? { 'retry-after': String(RETRY_S) } : {}), 'x-should-retry': String(again) },
  )
}

/** For the batch of the settling. What was charged nothing may run again under its key. */
export function conclude(
  db: DrizzleD1Database,
  { requestId, createdAt }: Pick<Row, 'requestId' | 'createdAt'>,
  { charged, answer }: { readonly charged: boolean; readonly answer: string | null },
) {
  const isOfRequest = eq(idempotency.requestId, requestId)
  if (!charged) return db.delete(idempotency).where(isOfRequest)
  const kept = answer !== null && answer.length <= MAX_KEPT_CHARS
  return db
    .update(idempotency)
    .set({ status: kept ? 'kept' : 'spent', answer: kept ? answer : null, expiresAt: createdAt + KEPT_MS })
    .where(isOfRequest)
}
