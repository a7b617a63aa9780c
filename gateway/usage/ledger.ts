// What is to be written of requests, of all that run in this gateway: gathered, and written together. One flush is on its
// way at a time and takes all that came since the last one, in one batch, which is one transaction; what fails is sent
// again as it was, and counts once.
import { isDatabaseAway } from '../database/from-database.ts'
import type { SqlDatabase, SqlStatement } from '../database/migrate.ts'
import { databaseUnavailable } from '../errors.ts'
import type { Report } from '../limits/lease.ts'
import { writeReports } from '../limits/lease-statements.ts'
import { Leases } from '../limits/leases.ts'
import { errorFields, log } from '../log.ts'
import { type QueueBinding, queueRows } from './queue-rows.ts'
import { type ExposureRow, type FactsRow, type UsageRow, writeExposures, writeFacts, writeUsage } from './usage-rows.ts'

/** How soon what happens to requests is in the database. */
export interface Keeping {
  /** A row is gathered for as long before it is written, so that most are written once, when they are settled. */
  readonly lingerMs: number
  /** What is leased of limits and finds no use goes back after it. */
  readonly spareMs: number
  /** Its row is in the database before a backend is asked. */
  readonly beforeDispatch: boolean
}

/** A database that is busy for a moment is asked again; then the next request does. */
const RETRY_MS = [50, 250]
/** Beyond it requests wait for the database: rows of 2 kB in an isolate of 128 MB. */
export const MAX_PENDING = 4_096
/**
 * One request flushes for all, and then another: Workers let a request work on for 30 s after its answer, and ask a
 * database 50 times at the least. One that was stopped sooner is relieved at the same time.
 */
const TERM_MS = 3_000
/** A database that has not answered for as long: what waits for it goes to the queue, well before the host stops waiting. */
const PATIENCE_MS = 5_000

/** A row of usage that will change until it is settled, and what else is written with it. */
export interface Entry {
  readonly row: UsageRow
  /** For the batch that settles it. */
  along?: () => SqlStatement[]
  /** The database takes others, and will never take this one. */
  isRefused?: boolean
}

interface Batch {
  /** Of the rows, in their order. */
  readonly taken: readonly Entry[]
  /** Those that are settled. */
  readonly entries: readonly Entry[]
  readonly rows: readonly UsageRow[]
  readonly exposures: readonly ExposureRow[]
  readonly facts: readonly FactsRow[]
  readonly reports: readonly Report[]
}

export class Ledger {
  readonly leases: Leases
  readonly keeping: Keeping
  readonly #db: SqlDatabase
  readonly #now: () => number
  readonly #queue: QueueBinding | undefined
  #entries = new Set<Entry>()
  #exposures: ExposureRow[] = []
  #facts: FactsRow[] = []
  /** On its way, or to be sent again. */
  #batch: Batch | undefined
  #sending: Promise<void> | undefined
  #sentAt = Number.NEGATIVE_INFINITY
  #hasFailed = false
  /** Of the request that flushes for all. */
  #term = 0
  #termBegan = Number.NEGATIVE_INFINITY
  #isLed = false

  /** `queue`: takes what the database does not; undefined: it waits in memory. */
  constructor(db: SqlDatabase, keeping: Keeping, now: () => number, queue?: QueueBinding) {
    this.#db = db
    this.#queue = queue
    this.keeping = keeping
    this.#now = now
    this.leases = new Leases(db, keeping.spareMs)
  }

  /** Throws 503 where rows cannot be written: nothing runs that will not be on record. */
  async ready(): Promise<void> {
    // The database is slow rather than away: what is on its way goes on, and what was gathered since does not wait for it.
    if (this.#entries.size >= MAX_PENDING) await this.#handOver(undefined)
    if (!this.isReady) await this.#orUnavailable(this.#flushOrHandOver())
  }

  get isReady(): boolean {
    return !this.#hasFailed && this.#entries.size < MAX_PENDING
  }

  /** What was leased and found no use is given back in a moment. */
  tidy(keep: (work: Promise<unknown>) => void): void {
    this.#lead(keep)
  }

  /** To be written as it is when its turn comes. `keep`: the host's `waitUntil`. */
  write(entry: Entry, keep: (work: Promise<unknown>) => void): void {
    this.#entries.add(entry)
    this.#lead(keep)
  }

  expose(row: ExposureRow): void {
    this.#exposures.push(row)
  }

  keepFacts(row: FactsRow): void {
    this.#facts.push(row)
  }

  /** Resolves once all that was gathered so far is in the database; rejects where it cannot be written. */
  async flush(): Promise<void> {
    // What is on its way may be older than what is asked for.
    while (this.#sending !== undefined) await this.#sending.catch(() => {})
    while (this.#batch !== undefined || this.#isOwing) await this.#send()
  }

  async flushOrUnavailable(): Promise<void> {
    await this.#orUnavailable(this.flush())
  }

  async #flushOrHandOver(): Promise<void> {
    try {
      await this.flush()
    } catch (error) {
      // What is still owed then (counts of limits) has no other way.
      if (!(await this.#handOver(this.#batch)) || this.#batch !== undefined) throw error
    }
  }

  get #isOwing(): boolean {
    return this.#entries.size > 0 || this.#exposures.length > 0 || this.#facts.length > 0
  }

  async #orUnavailable(work: Promise<void>): Promise<void> {
    try {
      await work
    } catch (error) {
      log('database.unavailable', errorFields(error))
      throw databaseUnavailable()
    }
  }

  #lead(keep: (work: Promise<unknown>) => void): void {
    const now = this.#now()
    if (this.#isLed && now - this.#termBegan < TERM_MS) return
    // One that was stopped may never see the end of what it sent: it is sent again, and counts once.
    if (now - this.#sentAt >= TERM_MS) this.#sending = undefined
    this.#isLed = true
    this.#termBegan = now
    keep(this.#flushUntilDone(++this.#term))
  }

  /** For all requests, until nothing is owed, the database does not take it, or another has begun. */
  async #flushUntilDone(term: number): Promise<void> {
    let failures = 0
    try {
      while (term === this.#term && (this.#isOwing || this.#batch !== undefined || this.leases.isOwing)) {
        const lingerMs = this.#entries.size > MAX_PENDING / 2 ? 0 : this.keeping.lingerMs
        const pauseMs = failures === 0 ? lingerMs : RETRY_MS[failures - 1]
        if (pauseMs === undefined) {
          await this.#handOver(this.#batch)
          return
        }
        await new Promise((resolve) => setTimeout(resolve, pauseMs))
        if (term !== this.#term) return
        const sent = this.#send().then(
          () => true,
          () => false,
        )
        const isDone = this.#queue === undefined ? await sent : await this.#inTime(sent)
        failures = isDone ? 0 : failures + 1
      }
    } finally {
      if (term === this.#term) this.#isLed = false
    }
  }

  /** False where it fails, or takes so long that the host may stop it: then its rows are with the queue as well. */
  async #inTime(sent: Promise<boolean>): Promise<boolean> {
    const { promise: late, resolve } = Promise.withResolvers<undefined>()
    const timer = setTimeout(() => resolve(undefined), PATIENCE_MS)
    const isDone = await Promise.race([sent, late])
    clearTimeout(timer)
    if (isDone === undefined) await this.#handOver(this.#batch)
    return isDone ?? false
  }

  /**
   * To the queue: what was gathered, and what of the batch is of rows. In memory stays what counts only in its order or
   * changes other rows, reports of leases and `along`, and what is too large for a message. False: the queue does not
   * take it, or there is none, and all is as it was.
   */
  async #handOver(batch: Batch | undefined): Promise<boolean> {
    if (this.#queue === undefined) return false
    const entries = [...this.#entries]
    const [exposures, facts] = [this.#exposures, this.#facts]
    const rows = entries.map(({ row }) => ({ ...row }))
    this.#entries = new Set()
    this.#exposures = []
    this.#facts = []
    try {
      const left = await queueRows(this.#queue, {
        facts: [...(batch?.facts ?? []), ...facts],
        rows: [...(batch?.rows ?? []), ...rows],
        exposures: [...(batch?.exposures ?? []), ...exposures],
      })
      if (this.#batch === batch) this.#batch = batch && restOf(batch)
      this.#facts.push(...left)
      // Those that settled: their row is told twice, which counts once.
      for (const entry of entries) if (entry.along !== undefined) this.#entries.add(entry)
      return true
    } catch (error) {
      log('usage.unqueued', { rows: rows.length + (batch?.rows.length ?? 0), ...errorFields(error) })
      this.#entries = new Set([...entries, ...this.#entries])
      this.#exposures = [...exposures, ...this.#exposures]
      this.#facts = [...facts, ...this.#facts]
      return false
    }
  }

  /** One batch; whoever comes while one is on its way waits for that one. */
  #send(): Promise<void> {
    if (this.#sending !== undefined) return this.#sending
    this.#sentAt = this.#now()
    const sending = this.#sendBatch().finally(() => {
      if (this.#sending === sending) this.#sending = undefined
    })
    this.#sending = sending
    return sending
  }

  async #sendBatch(): Promise<void> {
    this.#batch ??= this.#take()
    const batch = this.#batch
    const { rows, exposures, facts, entries } = batch
    try {
      const along = entries.flatMap((entry) => entry.along?.() ?? [])
      const statements = [...this.#statementsOf(batch), ...along]
      if (statements.length > 0) await this.#db.batch(statements)
    } catch (error) {
      this.#hasFailed = true
      if (isDatabaseAway(error) || rows.length + exposures.length + facts.length + batch.reports.length < 2) {
        const ids = rows.map(({ requestId }) => requestId)
        log('usage.unsettled', { requestId: ids.join(','), ...errorFields(error) })
        throw error
      }
      await this.#sendOneByOne(batch)
    }
    this.#hasFailed = false
    this.leases.told(batch.reports)
    if (this.#batch === batch) this.#batch = undefined
  }

  #statementsOf({ rows, exposures, facts, reports }: Batch): SqlStatement[] {
    const db = this.#db
    return [
      ...writeFacts(db, facts),
      ...writeUsage(db, rows),
      ...writeExposures(db, exposures),
      ...writeReports(db, reports),
    ]
  }

  #take(): Batch {
    const entries = [...this.#entries]
    // As they are now: they may change while they are on their way.
    const rows = entries.map(({ row }) => ({ ...row }))
    const batch = {
      taken: entries,
      entries: entries.filter((_, at) => rows[at]?.status !== 'open'),
      rows,
      exposures: this.#exposures,
      facts: this.#facts,
      reports: this.leases.report(this.#now()),
    }
    this.#entries = new Set()
    this.#exposures = []
    this.#facts = []
    return batch
  }

  /** One row that the database refuses for good must not keep the others: it is left out, and logged. */
  async #sendOneByOne({ taken, entries, rows, exposures, facts, reports }: Batch): Promise<void> {
    const alone = { taken: [], entries: [], rows: [], exposures: [], facts: [], reports: [] }
    const parts: readonly (Partial<Batch> & { requestId: string })[] = [
      ...facts.map((row) => ({ facts: [row], requestId: '' })),
      ...rows.map((row) => ({ rows: [row], requestId: row.requestId })),
      ...exposures.map((row) => ({ exposures: [row], requestId: row.requestId })),
      { reports, requestId: '' },
    ]
    for (const { requestId, ...part } of parts) {
      try {
        const along = entries.flatMap((entry) => (entry.row.requestId === requestId ? (entry.along?.() ?? []) : []))
        const statements = [...this.#statementsOf({ ...alone, ...part }), ...('rows' in part ? along : [])]
        if (statements.length > 0) await this.#db.batch(statements)
      } catch (error) {
        if (isDatabaseAway(error)) throw error
        log('usage.refused', { requestId, ...errorFields(error) })
        const entry = 'rows' in part ? taken.find(({ row }) => row.requestId === requestId) : undefined
        if (entry !== undefined) entry.isRefused = true
      }
    }
  }
}

/** Of a batch whose rows are with the queue: what has no other way; undefined: nothing. */
function restOf(batch: Batch): Batch | undefined {
  const entries = batch.entries.filter(({ along }) => along !== undefined)
  if (entries.length === 0 && batch.reports.length === 0) return undefined
  return {
    taken: entries,
    entries,
    rows: entries.map(({ row }) => ({ ...row })),
    exposures: [],
    facts: [],
    reports: batch.reports,
  }
}
