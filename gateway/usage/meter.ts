// The usage row: opened before dispatch together with what is held of limits and the exposure, in one batch; settled once,
// whatever ends the request, in one batch with what it took.
import { and, eq, type SQL, sql } from 'drizzle-orm'
import type { BatchItem } from 'drizzle-orm/batch'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { insertWhere } from '../database/insert-where.ts'
import { exposures, usage } from '../database/records.ts'
import { digestRecord } from '../digest.ts'
import type { Choice } from '../infer/choose-target.ts'
import {
  type Claim,
  claimsOn,
  findFull,
  HOLD_MS,
  haveRoom,
  hold,
  holdsOf,
  release,
  releaseLapsed,
} from '../limits/hold.ts'
import { limitsOn } from '../limits/limit.ts'
import { costOf, type Price, priceOf } from '../limits/price.ts'
import { limitExceeded, priceMissing } from '../limits/refuse.ts'
import { errorFields, log } from '../log.ts'
import type { Policy } from '../policy/policy.ts'
import { type Decided, RECEIPT_CHARS, recordPart } from './decided.ts'
import { keepFacts, writeFacts } from './facts.ts'
import { claim, conclude, type Idempotent, isUnclaimed, type Replay, replay } from './idempotency.ts'
import type { Tokens } from './read-usage.ts'

export type Outcome = 'settled' | 'aborted' | 'failed'

export interface Meter {
  /** Digest of the decision; the caller gets it, and the row can be found by it. */
  readonly receipt: string
  firstByte(): void
  /** `answer`: to be given again under the request's Idempotency-Key. Idempotent: the first outcome counts. Never throws; a failure to write leaves the row open, and is logged. */
  settle(outcome: Outcome, tokens: Tokens | null, answer?: string): Promise<void>
  /** Resolves once settled, for `waitUntil`. */
  readonly settled: Promise<void>
}

export interface Metered {
  readonly policy: Policy
  readonly choice: Choice
  readonly requestId: string
  /** An upper bound of what the request may take; asked for where something depends on it. */
  readonly bound: () => Tokens
  /** Null: the request may run as often as it is sent. */
  readonly idempotent: Idempotent | null
}

/** A database that is busy for a moment must not leave a row open. */
const SETTLE_RETRY_MS = [50, 250]

const total = ({ promptTokens, completionTokens }: Tokens): number => promptTokens + completionTokens

/**
 * The meter of a request that may be dispatched now, or the answer that it has had. Throws 429 where a limit has no room,
 * 422 or 425 where its Idempotency-Key is in the way; then nothing is written, and nothing may be dispatched.
 */
export async function openMeter(db: DrizzleD1Database, metered: Metered, now: () => number): Promise<Meter | Replay> {
  const { policy, choice, requestId, idempotent } = metered
  const createdAt = now()
  const { tenantId } = policy.subject
  const price = priceOf(policy.registry.prices, choice.target)
  const bound = once(metered.bound)
  const claims = claimsOn(
    limitsOn(policy.registry.limits, policy.subject, choice.target),
    { tokens: () => total(bound()), cost: () => costOf(price ?? refuseUnpriced(), bound()) },
    createdAt,
  )
  const facts = await keepFacts(policy, choice.model)
  const decision = decisionOf(metered, facts.digest, createdAt)
  const receipt = (await digestRecord({ ...decision })).slice(0, RECEIPT_CHARS)
  const holds = holdsOf(claims)
  const row = {
    ...decision,
    receipt,
    status: 'open',
    promptPrice: price?.prompt ?? null,
    completionPrice: price?.completion ?? null,
    holds: holds.length === 0 ? null : holds,
    heldUntil: holds.length === 0 ? null : createdAt + HOLD_MS,
  } as const
  const conditions = [
    ...(claims.length === 0 ? [] : [haveRoom(tenantId, claims)]),
    ...(idempotent === null ? [] : [isUnclaimed(tenantId, idempotent)]),
  ]
  const admit = async () => {
    const admission = insertWhere(db, usage, row, and(...conditions) ?? sql`1`).returning({ id: usage.requestId })
    const along = [
      ...(claims.length === 0 ? [] : [hold(db, tenantId, claims, requestId)]),
      ...recordExposure(db, metered, createdAt),
      ...writeFacts(db, facts, createdAt),
    ]
    if (idempotent === null) {
      const [rows] = await db.batch([admission, ...along])
      return { admitted: rows.length > 0, earlier: undefined }
    }
    const { forgetExpired, findEarlier, write } = claim(db, idempotent, { tenantId, requestId, receipt, createdAt })
    const [, [earlier], rows] = await db.batch([forgetExpired, findEarlier, admission, write, ...along])
    return { admitted: rows.length > 0, earlier }
  }
  let { admitted, earlier } = await admit()
  if (!admitted && earlier === undefined && (await releaseLapsed(db, tenantId, createdAt))) {
    const again = await admit()
    admitted = again.admitted
    earlier = again.earlier
  }
  if (earlier !== undefined && idempotent !== null) return replay(earlier, idempotent)
  facts.written = true
  if (!admitted) throw limitExceeded(await findFull(db, tenantId, claims), createdAt)
  const opened = { tenantId, requestId, receipt, claims, price, bound, createdAt, isIdempotent: idempotent !== null }
  return startMeter(db, opened, now)
}

function decisionOf({ policy, choice, requestId }: Metered, factsDigest: string, createdAt: number): Decided {
  const { target, arm } = choice
  const { tenantId, keyId, userId } = policy.subject
  return {
    requestId,
    tenantId,
    keyId,
    userId,
    model: choice.model,
    baseDigest: target.baseDigest,
    adapterId: target.kind === 'adapter' ? target.id : null,
    adapterDigest: target.kind === 'adapter' ? target.digest : null,
    grantId: choice.grantId,
    experimentId: arm?.experimentId ?? null,
    bucketVersion: arm?.bucketVersion ?? null,
    armId: arm?.id ?? null,
    mix: target.kind === 'mix' ? target.parts.map(recordPart) : null,
    assignedArmId: choice.exposure?.assignedArmId ?? null,
    factsDigest,
    createdAt,
  }
}

function recordExposure(db: DrizzleD1Database, metered: Metered, createdAt: number): BatchItem<'sqlite'>[] {
  const { policy, choice, requestId } = metered
  if (choice.exposure === null) return []
  const { servedArmId, ...assigned } = choice.exposure
  const analysed = servedArmId === assigned.assignedArmId
  const { tenantId } = policy.subject
  const row = { tenantId, ...assigned, servedArmId, analysed, requestId, createdAt }
  return [
    insertWhere(db, exposures, row, isAdmitted(requestId)).onConflictDoUpdate({
      target: [exposures.tenantId, exposures.experimentId, exposures.bucketVersion, exposures.subject],
      // One way only: a subject who once got another arm stays out of the analysis.
      set: { analysed: false },
      setWhere: sql`${analysed ? 1 : 0} = 0`,
    }),
  ]
}

const isAdmitted = (requestId: string): SQL =>
  sql`exists (select 1 from ${usage} where ${usage.requestId} = ${requestId})`

interface Opened {
  readonly tenantId: string
  readonly requestId: string
  readonly receipt: string
  readonly claims: readonly Claim[]
  readonly price: Price | null
  readonly bound: () => Tokens
  readonly createdAt: number
  readonly isIdempotent: boolean
}

const NOTHING: Tokens = { promptTokens: 0, completionTokens: 0 }

function startMeter(db: DrizzleD1Database, opened: Opened, now: () => number): Meter {
  const { tenantId, requestId, receipt, claims, price, bound, createdAt, isIdempotent } = opened
  let firstByteAt: number | null = null
  let settling: Promise<void> | null = null
  const { promise: settled, resolve } = Promise.withResolvers<void>()

  /** Counted tokens as they are; unknown ones at their bound where the backend began to answer, else at nothing. */
  const chargeOf = (tokens: Tokens | null) => {
    if (tokens !== null) return { charge: 'measured', took: tokens } as const
    return firstByteAt === null
      ? ({ charge: 'nothing', took: NOTHING } as const)
      : ({ charge: 'bound', took: bound() } as const)
  }

  const write = async (outcome: Outcome, tokens: Tokens | null, answer: string | null) => {
    const { charge, took: taken } = chargeOf(tokens)
    const cost = price === null ? null : costOf(price, taken)
    const close = db
      .update(usage)
      .set({
        status: outcome,
        promptTokens: tokens?.promptTokens ?? null,
        completionTokens: tokens?.completionTokens ?? null,
        ttftMs: firstByteAt === null ? null : firstByteAt - createdAt,
        settledAt: now(),
        charge,
        cost,
        heldUntil: null,
      })
      .where(and(eq(usage.requestId, requestId), eq(usage.status, 'open')))
    const took = { tokens: total(taken), cost: cost ?? 0 }
    const counted = claims.some(({ metric }) => metric !== 'requests')
    const charged = charge !== 'nothing'
    const along = isIdempotent ? [conclude(db, { requestId, createdAt }, { charged, answer })] : []
    if (counted) await db.batch([release(db, tenantId, claims, requestId, took), close, ...along])
    else await db.batch([close, ...along])
  }

  const settleOnce = async (outcome: Outcome, tokens: Tokens | null, answer: string | null) => {
    try {
      await retry(() => write(outcome, tokens, answer))
      if (outcome !== 'failed' && tokens === null) log('usage.unknown', { requestId, outcome })
    } catch (error) {
      log('usage.unsettled', { requestId, outcome, ...errorFields(error) })
    } finally {
      resolve()
    }
  }

  return {
    receipt,
    settled,
    firstByte() {
      firstByteAt ??= now()
    },
    settle(outcome, tokens, answer) {
      settling ??= settleOnce(outcome, tokens, answer ?? null)
      return settling
    },
  }
}

/** Only of what does nothing the second time. */
async function retry(act: () => Promise<void>): Promise<void> {
  for (const pauseMs of SETTLE_RETRY_MS) {
    try {
      return await act()
    } catch {
      await new Promise((resolve) => setTimeout(resolve, pauseMs))
    }
  }
  return act()
}

function once<T>(read: () => T): () => T {
  let kept: { readonly value: T } | undefined
  return () => {
    kept ??= { value: read() }
    return kept.value
  }
}

function refuseUnpriced(): never {
  throw priceMissing()
}
