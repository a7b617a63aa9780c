// The leases of this gateway. A request that finds room in them asks nobody; one that does not asks the database for more.
import type { SqlDatabase } from '../database/migrate.ts'
import type { Claim } from './claim.ts'
import { LEASE_MS, Lease, type Report } from './lease.ts'
import { freeLapsed, take, type Wanted } from './lease-statements.ts'

/** Of an answer that another request of this gateway waits for, and that may have room for this one. */
const PATIENCE_MS = 1_000

/** D1 takes 2 MB in a parameter; the others are told with the next batch. */
const MAX_REPORTS = 1_000

/** What a request holds, claim by claim. */
export interface Reserved {
  readonly claim: Claim
  readonly lease: Lease
}

const needOf = ({ taken, held }: Claim): number => taken + held
const nameOf = (tenantId: string, { limit, subject }: Claim): string => `${tenantId}\n${limit}\n${subject}`

export class Leases {
  readonly #db: SqlDatabase
  /** The one to admit from, by what it is of. */
  readonly #current = new Map<string, Lease>()
  /** All about which something is still to be said. */
  readonly #open = new Set<Lease>()
  /** Reports on their way that give room back. */
  #returning: { readonly name: string; readonly told: Promise<void>; resolve(): void }[] = []
  readonly #asking = new Map<Lease, Set<Promise<unknown>>>()

  readonly #spareMs: number

  /** `spareMs`: how long what is spare is kept for the next request. */
  constructor(db: SqlDatabase, spareMs: number) {
    this.#db = db
    this.#spareMs = spareMs
  }

  /** Undefined: not all of them have room here, and nothing is reserved. */
  reserve(tenantId: string, claims: readonly Claim[], now: number): readonly Reserved[] | undefined {
    const reserved: Reserved[] = []
    for (const claim of claims) {
      const lease = this.#leaseOf(tenantId, claim, now)
      if (lease.room < needOf(claim)) return undefined
      reserved.push({ claim, lease })
    }
    for (const { claim, lease } of reserved) lease.reserve(claim, now)
    return reserved
  }

  /** The same, asking the database for what is short. Undefined: it has no room. */
  async obtain(tenantId: string, claims: readonly Claim[], now: number): Promise<readonly Reserved[] | undefined> {
    for (let mayBeLapsed = true; ; ) {
      // What is granted may be less than was asked for, and others of this gateway may be quicker to take it.
      while (await this.#ask(tenantId, claims, now)) {
        const reserved = this.reserve(tenantId, claims, now)
        if (reserved !== undefined) return reserved
      }
      // The database has nothing left; what it gave to others of this gateway before may still be on its way here.
      await this.#othersAsk(tenantId, claims, now)
      const reserved = this.reserve(tenantId, claims, now)
      if (reserved !== undefined) return reserved
      if (await this.#returned(tenantId, claims)) continue
      if (!mayBeLapsed || !(await freeLapsed(this.#db, tenantId, now))) return undefined
      mayBeLapsed = false
    }
  }

  /** Asks for the next block before the last one is used up; nothing where there is enough. */
  ahead(reserved: readonly Reserved[], now: number): Promise<unknown> | undefined {
    const low = reserved.filter(({ claim, lease }) => lease.isLow(needOf(claim)) && !this.#asking.has(lease))
    if (low.length === 0) return undefined
    const wanted = low.map(({ claim, lease }) => ({ claim, lease, need: 0, withBlock: true }))
    return this.#take(wanted, now).catch(() => {})
  }

  /** What the database is to be told now. Each must be told it, and then `told`. */
  report(now: number): readonly Report[] {
    const reports: Report[] = []
    for (const lease of this.#open) {
      if (reports.length === MAX_REPORTS) break
      const isCurrent = this.#current.get(lease.name) === lease
      const report = this.#asking.has(lease)
        ? undefined
        : lease.report(now, now + LEASE_MS, isCurrent ? this.#spareMs : 0)
      if (report === undefined) continue
      reports.push(report)
      if (lease.isReturning) {
        const { promise: told, resolve } = Promise.withResolvers<void>()
        this.#returning.push({ name: lease.name, told, resolve })
      }
      if (!report.isLast) continue
      this.#open.delete(lease)
      if (isCurrent) this.#current.delete(lease.name)
    }
    return reports
  }

  told(reports: readonly Report[]): void {
    const ids = new Set(reports.map(({ id }) => id))
    for (const lease of this.#open) if (ids.has(lease.id)) lease.told()
    for (const { resolve } of this.#returning.splice(0)) resolve()
  }

  /** Something is to be said, or will be once a moment has passed: not where requests run on all that is held. */
  get isOwing(): boolean {
    for (const lease of this.#open) if (lease.isOwing) return true
    return false
  }

  #leaseOf(tenantId: string, claim: Claim, now: number): Lease {
    const name = nameOf(tenantId, claim)
    const known = this.#current.get(name)
    // One of another window, of a limit that was changed since, or that has lapsed, is only reported on.
    if (known?.window.start === claim.start && known.most === claim.most && now < known.until) return known
    const { limit, subject, start, end } = claim
    const lease = new Lease(name, { tenantId, limit, subject, start, end }, claim.most, now + LEASE_MS)
    this.#current.set(name, lease)
    return lease
  }

  /** True where more was granted than was there. */
  async #ask(tenantId: string, claims: readonly Claim[], now: number): Promise<boolean> {
    const wanted = claims.flatMap((claim): Wanted[] => {
      const lease = this.#leaseOf(tenantId, claim, now)
      const need = needOf(claim) - lease.room
      // Whoever asks while another does asks for itself alone.
      return need > 0 ? [{ claim, lease, need, withBlock: !this.#asking.has(lease) }] : []
    })
    return wanted.length === 0 || this.#take(wanted, now)
  }

  async #take(wanted: readonly Wanted[], now: number): Promise<boolean> {
    const asking = take(this.#db, wanted, now)
    for (const { lease } of wanted) {
      this.#open.add(lease)
      const asked = this.#asking.get(lease) ?? new Set()
      this.#asking.set(lease, asked.add(asking))
    }
    try {
      const granted = await asking
      wanted.forEach(({ lease }, at) => {
        lease.grant(granted[at] ?? 0, now + LEASE_MS)
      })
      return granted.some((amount) => amount > 0)
    } finally {
      for (const { lease } of wanted) {
        const asked = this.#asking.get(lease)
        asked?.delete(asking)
        if (asked?.size === 0) this.#asking.delete(lease)
      }
    }
  }

  async #othersAsk(tenantId: string, claims: readonly Claim[], now: number): Promise<void> {
    const others = claims.flatMap((claim) => [...(this.#asking.get(this.#leaseOf(tenantId, claim, now)) ?? [])])
    if (others.length === 0) return
    await atMost(PATIENCE_MS, Promise.allSettled(others))
  }

  /** Where room is on its way back to the database, and was not seen there: true once it may be. */
  async #returned(tenantId: string, claims: readonly Claim[]): Promise<boolean> {
    const names = new Set(claims.map((claim) => nameOf(tenantId, claim)))
    const returning = this.#returning.filter(({ name }) => names.has(name))
    if (returning.length === 0) return false
    await atMost(PATIENCE_MS, Promise.all(returning.map(({ told }) => told)))
    return true
  }
}

async function atMost(ms: number, work: Promise<unknown>): Promise<void> {
  const { promise: tooLong, resolve } = Promise.withResolvers<void>()
  const timer = setTimeout(resolve, ms)
  await Promise.race([work, tooLong])
  clearTimeout(timer)
}
