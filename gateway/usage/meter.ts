// The usage row: opened before dispatch, together with what is held of limits; settled once, whatever ends the request, with
// what it took. The ledger writes both.
import { sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { fromDatabase } from '../database/from-database.ts'
import { insertWhere } from '../database/insert-where.ts'
import type { SqlDatabase } from '../database/migrate.ts'
import { usage } from '../database/records.ts'
import { databaseUnavailable } from '../errors.ts'
import type { Choice } from '../infer/choose-target.ts'
import { claimsOn, findFull } from '../limits/claim.ts'
import type { Reserved } from '../limits/leases.ts'
import { limitsOn } from '../limits/limit.ts'
import { costOf, type Price, priceOf } from '../limits/price.ts'
import { limitExceeded, priceMissing } from '../limits/refuse.ts'
import { log } from '../log.ts'
import type { Experiment, Policy } from '../policy/policy.ts'
import { type Decided, receiptOf, recordPart } from './decided.ts'
import { factsFor, type KeptFacts } from './facts.ts'
import { claim, conclude, findEarlier, type Idempotent, isUnclaimed, type Replay, replay } from './idempotency.ts'
import type { Entry, Ledger } from './ledger.ts'
import type { Tokens } from './read-usage.ts'

export type Outcome = 'settled' | 'aborted' | 'failed'

export interface Meter {
  /** Digest of the decision; the caller gets it, and the row can be found by it. */
  readonly receipt: string
  firstByte(): void
  /** `answer`: to be given again under the request's Idempotency-Key. The first outcome counts. */
  settle(outcome: Outcome, tokens: Tokens | null, answer?: string): void
  /** Resolves once all that was settled is in the database; never rejects. */
  written(): Promise<void>
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

/** Where rows go, and who waits for them. */
export interface Books {
  readonly ledger: Ledger
  readonly db: DrizzleD1Database
  readonly sql: SqlDatabase
  readonly now: () => number
  /** The host's `waitUntil`. */
  readonly keep: (work: Promise<unknown>) => void
}

const total = ({ promptTokens, completionTokens }: Tokens): number => promptTokens + completionTokens
const NOTHING: Tokens = { promptTokens: 0, completionTokens: 0 }

/**
 * The meter of a request that may be dispatched now, or the answer that it has had. Throws 429 where a limit has no room,
 * 422 or 425 where its Idempotency-Key is in the way, 503 where the database cannot be written; then nothing may be
 * dispatched.
 */
export async function openMeter(books: Books, metered: Metered): Promise<Meter | Replay> {
  const { ledger, now } = books
  const { policy, choice, idempotent } = metered
  const createdAt = now()
  const { tenantId } = policy.subject
  const price = priceOf(policy.registry.prices, choice.target)
  const bound = once(metered.bound)
  const claims = claimsOn(
    limitsOn(policy.registry.limits, policy.subject, choice.target),
    { tokens: () => total(bound()), cost: () => costOf(price ?? refuseUnpriced(), bound()) },
    createdAt,
  )
  if (!ledger.isReady) await ledger.ready()
  const reserved =
    ledger.leases.reserve(tenantId, claims, createdAt) ??
    (await fromDatabase(() => ledger.leases.obtain(tenantId, claims, createdAt)))
  if (reserved === undefined) {
    ledger.tidy(books.keep)
    const earlier = idempotent && (await fromDatabase(() => findEarlier(books.db, tenantId, idempotent, createdAt)))
    if (earlier != null && idempotent !== null) return replay(earlier, idempotent)
    throw limitExceeded(await fromDatabase(() => findFull(books.db, tenantId, claims)), createdAt)
  }
  const cancel = () => {
    for (const { claim: one, lease } of reserved) lease.cancel(one)
  }
  let earlier: Awaited<ReturnType<typeof claimKey>>
  try {
    const ahead = ledger.leases.ahead(reserved, createdAt)
    if (ahead !== undefined) books.keep(ahead)
    const facts = factsFor(policy, choice.model)
    const decision = decisionOf(metered, facts.digest, createdAt)
    const receipt = receiptOf(decision)
    const entry: Entry = { row: openRow(decision, receipt, price) }
    const isClaimed = idempotent !== null
    if (idempotent !== null) earlier = await fromDatabase(() => claimKey(books, idempotent, entry))
    if (earlier === undefined) {
      record(ledger, metered, facts, createdAt)
      return await open(books, new Running(books, entry, reserved, price, bound, isClaimed), entry, isClaimed)
    }
  } catch (error) {
    cancel()
    throw error
  }
  cancel()
  if (idempotent === null) throw new Error('a request without a key met one')
  return replay(earlier, idempotent)
}

/** `isThere`: with the claim of its key. */
async function open({ ledger, keep }: Books, meter: Meter, entry: Entry, isThere: boolean): Promise<Meter> {
  if (!isThere) ledger.write(entry, keep)
  if (!ledger.keeping.beforeDispatch || isThere) return meter
  try {
    await ledger.flushOrUnavailable()
    // Nothing runs that will not be on record.
    if (entry.isRefused === true) throw databaseUnavailable()
  } catch (error) {
    // The row may come to be there all the same, and nothing ran.
    entry.row.status = 'failed'
    entry.row.charge = 'nothing'
    entry.row.settledAt = entry.row.createdAt
    ledger.write(entry, keep)
    throw error
  }
  return meter
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

/** Columns of before leases stay empty. */
const UNHELD = { holds: null, heldUntil: null } as const
const OPEN = {
  status: 'open',
  promptTokens: null,
  completionTokens: null,
  ttftMs: null,
  settledAt: null,
  charge: null,
  cost: null,
} as const

const openRow = (decision: Decided, receipt: string, price: Price | null): Entry['row'] => ({
  ...decision,
  receipt,
  promptPrice: price?.prompt ?? null,
  completionPrice: price?.completion ?? null,
  ...OPEN,
  ...UNHELD,
})

/** Subjects of whom the database knows already that they were exposed, and whether to the arm that is theirs. */
const exposed = new WeakMap<Experiment, Map<string, boolean>>()
/** Of an isolate's 128 MB: a subject takes some 150 bytes. */
const MAX_EXPOSED = 20_000

/** What is written once for many requests. */
function record(ledger: Ledger, { policy, choice, requestId }: Metered, facts: KeptFacts, createdAt: number): void {
  if (!facts.written) {
    facts.written = true
    ledger.keepFacts({ digest: facts.digest, text: facts.text, createdAt })
  }
  const { exposure, model } = choice
  const serves = policy.registry.models.get(model)?.serves
  if (exposure === null || serves?.kind !== 'experiment') return
  const { servedArmId, ...assigned } = exposure
  const analysed = servedArmId === assigned.assignedArmId
  const known = exposed.get(serves.experiment) ?? new Map<string, boolean>()
  exposed.set(serves.experiment, known)
  // One way only: who once got another arm stays out of the analysis.
  if (known.has(assigned.subject) && (analysed || known.get(assigned.subject) === false)) return
  if (known.size >= MAX_EXPOSED) known.clear()
  known.set(assigned.subject, analysed)
  ledger.expose({ tenantId: policy.subject.tenantId, ...assigned, servedArmId, analysed, requestId, createdAt })
}

/** The row, in the batch that claims its key: undefined where it has, else the claim that was there. */
async function claimKey({ db }: Books, idempotent: Idempotent, { row }: Entry) {
  const { forgetExpired, findEarlier: earlierOnes, write } = claim(db, idempotent, row)
  const admission = insertWhere(db, usage, row, isUnclaimed(row.tenantId, idempotent) ?? sql`1`)
  const [, [earlier]] = await db.batch([forgetExpired, earlierOnes, admission, write])
  return earlier
}

class Running implements Meter {
  readonly #books: Books
  readonly #entry: Entry
  readonly #reserved: readonly Reserved[]
  readonly #price: Price | null
  readonly #bound: () => Tokens
  readonly #isIdempotent: boolean
  #firstByteAt: number | null = null

  constructor(
    books: Books,
    entry: Entry,
    reserved: readonly Reserved[],
    price: Price | null,
    bound: () => Tokens,
    isIdempotent: boolean,
  ) {
    this.#isIdempotent = isIdempotent
    this.#books = books
    this.#entry = entry
    this.#reserved = reserved
    this.#price = price
    this.#bound = bound
  }

  get receipt(): string {
    return this.#entry.row.receipt
  }

  firstByte(): void {
    this.#firstByteAt ??= this.#books.now()
  }

  settle(outcome: Outcome, tokens: Tokens | null, answer?: string): void {
    const { row } = this.#entry
    if (row.status !== 'open') return
    const { charge, took } = this.#chargeOf(tokens)
    const cost = this.#price === null ? null : costOf(this.#price, took)
    row.status = outcome
    row.promptTokens = tokens?.promptTokens ?? null
    row.completionTokens = tokens?.completionTokens ?? null
    row.ttftMs = this.#firstByteAt === null ? null : this.#firstByteAt - row.createdAt
    row.settledAt = this.#books.now()
    row.charge = charge
    row.cost = cost
    for (const {
      claim: { metric, held },
      lease,
    } of this.#reserved) {
      if (metric !== 'requests') lease.settle(held, metric === 'tokens' ? total(took) : (cost ?? 0))
    }
    if (this.#isIdempotent) {
      const { db, sql: database } = this.#books
      const kept = { charged: charge !== 'nothing', answer: answer ?? null }
      this.#entry.along = () => {
        const { sql: text, params } = conclude(db, row, kept).toSQL()
        return [database.prepare(text).bind(...params)]
      }
    }
    if (outcome !== 'failed' && tokens === null) log('usage.unknown', { requestId: row.requestId, outcome })
    this.#books.ledger.write(this.#entry, this.#books.keep)
  }

  async written(): Promise<void> {
    // What cannot be written now stays with the ledger, which has logged it.
    await this.#books.ledger.flush().catch(() => {})
  }

  /** Counted tokens as they are; unknown ones at their bound where the backend began to answer, else at nothing. */
  #chargeOf(tokens: Tokens | null) {
    if (tokens !== null) return { charge: 'measured', took: tokens } as const
    return this.#firstByteAt === null
      ? ({ charge: 'nothing', took: NOTHING } as const)
      : ({ charge: 'bound', took: this.#bound() } as const)
  }
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
