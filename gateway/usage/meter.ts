// The usage row: opened before dispatch together with the exposure, settled once, whatever ends the request.
import { sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { exposures, type UsedPart, usage } from '../database/records.ts'
import { digestRecord } from '../digest.ts'
import type { MixedPart } from '../infer/choose-mix.ts'
import type { Choice } from '../infer/choose-target.ts'
import { errorFields, log } from '../log.ts'
import type { Policy } from '../policy/policy.ts'
import { isKnown, remember } from './known-exposures.ts'
import type { Tokens } from './read-usage.ts'
import { insertOpen, settleOpen } from './write-usage.ts'

export type Outcome = 'settled' | 'aborted' | 'failed'

export interface Meter {
  /** Digest of the decision; the caller gets it, and the row can be found by it. */
  readonly receipt: string
  firstByte(): void
  /** Idempotent: the first outcome counts. Never throws; a failure to write leaves the row open, and is logged. */
  settle(outcome: Outcome, tokens: Tokens | null): Promise<void>
  /** Resolves once settled, for `waitUntil`. */
  readonly settled: Promise<void>
}

/** 128 bits of the digest: enough to find a row, short enough for a header. */
const RECEIPT_CHARS = 32

const recordPart = ({ adapter, weight, grantId }: MixedPart): UsedPart => ({
  adapter: adapter.id,
  digest: adapter.digest,
  weight,
  grant: grantId,
})

export async function openMeter(
  db: DrizzleD1Database,
  policy: Policy,
  choice: Choice,
  requestId: string,
  now: () => number,
): Promise<Meter> {
  const createdAt = now()
  const { target, arm, exposure } = choice
  const { tenantId, keyId, userId } = policy.subject
  const decision = {
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
    createdAt,
  }
  const receipt = (await digestRecord(decision)).slice(0, RECEIPT_CHARS)
  const analysed = exposure !== null && exposure.servedArmId === exposure.assignedArmId
  if (exposure === null || isKnown(db, { tenantId, ...exposure, analysed })) {
    await insertOpen(db, { ...decision, receipt })
  } else {
    const { servedArmId, ...assigned } = exposure
    await db.batch([
      db.insert(usage).values({ ...decision, receipt, status: 'open' }),
      db
        .insert(exposures)
        .values({ tenantId, ...assigned, servedArmId, analysed, requestId, createdAt })
        .onConflictDoUpdate({
          target: [exposures.tenantId, exposures.experimentId, exposures.bucketVersion, exposures.subject],
          // One way only: a subject who once got another arm stays out of the analysis.
          set: { analysed: false },
          setWhere: sql`${analysed ? 1 : 0} = 0`,
        }),
    ])
    remember(db, { tenantId, ...exposure, analysed })
  }

  let firstByteAt: number | null = null
  let settling: Promise<void> | null = null
  const { promise: settled, resolve } = Promise.withResolvers<void>()
  const write = async (outcome: Outcome, tokens: Tokens | null) => {
    try {
      await settleOpen(db, {
        requestId,
        status: outcome,
        promptTokens: tokens?.promptTokens ?? null,
        completionTokens: tokens?.completionTokens ?? null,
        ttftMs: firstByteAt === null ? null : firstByteAt - createdAt,
        settledAt: now(),
      })
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
    settle(outcome, tokens) {
      settling ??= write(outcome, tokens)
      return settling
    },
  }
}
