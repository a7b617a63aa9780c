// What a gateway holds of one window of one limit, as a number in memory: it leases a block by one conditional statement,
// which counts as held for everybody else, and admits from it without asking again. So no more is ever admitted than the
// limit, by however many gateways; where room is short a block is no more than what waits for it.
import type { Claim } from './claim.ts'

/**
 * After it a lease that nobody reports on is free again: its gateway has died. Longer than two tries of a backend may
 * take; a longer stream is still charged when it ends.
 */
export const LEASE_MS = 15 * 60_000
/** How many requests like the one that waits a block is for, at most. */
export const BLOCK_REQUESTS = 1_000
/** A gateway that stops asking keeps a block for a moment: never more than this part of the room that others see. */
export const BLOCK_SHARE = 16
/** No backend counts as much in one request, and the sum of a window stays a number that JavaScript holds exactly. */
const MAX_TAKEN = 1e12

export type Window = Pick<Claim, 'limit' | 'subject' | 'start' | 'end'> & { readonly tenantId: string }

/** What the database is told of a lease; `report` is the number of those before it. */
export interface Report extends Window {
  readonly id: string
  readonly report: number
  /** Used for good. */
  readonly used: number
  /** No longer held. */
  readonly back: number
  readonly until: number
  /** Nothing is left, and nothing will come: the lease goes. */
  readonly isLast: boolean
}

export class Lease {
  readonly id = crypto.randomUUID()
  /** Of what it is, whatever the window. */
  readonly name: string
  readonly window: Window
  /** Of the limit; one that is changed is leased anew. */
  readonly most: number
  until: number
  /** Held for this gateway, by the database. */
  #granted = 0
  #lastGrant = 0
  /** For requests that run. */
  #reserved = 0
  /** Used, and not reported. */
  #used = 0
  #reports = 0
  #busyAt = Number.NEGATIVE_INFINITY
  #isReporting = false
  /** Room that is on its way back to the database. */
  #returning = 0

  constructor(name: string, window: Window, most: number, until: number) {
    this.name = name
    this.window = window
    this.most = most
    this.until = until
  }

  get room(): number {
    return this.#granted - this.#reserved - this.#used
  }

  /** Worth another block in advance: a quarter of the last one is left, and it was one. */
  isLow(need: number): boolean {
    return this.#lastGrant >= BLOCK_SHARE * need && this.room < this.#lastGrant / 4
  }

  grant(amount: number, until: number): void {
    this.#granted += amount
    this.#lastGrant = amount
    this.until = until
  }

  /** Only where there is room. */
  reserve({ taken, held }: Pick<Claim, 'taken' | 'held'>, now: number): void {
    this.#busyAt = now
    this.#reserved += held
    this.#used += taken
  }

  /** The request did not run after all. */
  cancel({ taken, held }: Pick<Claim, 'taken' | 'held'>): void {
    this.#reserved -= held
    this.#used -= taken
  }

  /** In exchange for what was reserved. */
  settle(held: number, took: number): void {
    this.#reserved -= held
    this.#used += Math.min(took, MAX_TAKEN)
  }

  /** Undefined: there is nothing to say. One report at a time. */
  report(now: number, until: number, mayKeepMs: number): Report | undefined {
    if (this.#isReporting) return undefined
    const used = this.#used
    const keeps = now - this.#busyAt < mayKeepMs && now < this.window.end
    // What is beyond what was granted is used all the same; what others run on stays held.
    const spent = Math.min(used, Math.max(0, this.#granted - this.#reserved))
    const spare = keeps ? 0 : Math.max(0, this.#granted - spent - this.#reserved)
    const isLast = !keeps && this.#reserved === 0
    if (used === 0 && spare === 0 && !isLast) return undefined
    this.#used = 0
    this.#granted -= spent + spare
    this.#isReporting = true
    this.#returning = spare
    return {
      ...this.window,
      id: this.id,
      report: this.#reports++,
      used,
      back: spent + spare,
      until,
      isLast,
    }
  }

  told(): void {
    this.#isReporting = false
    this.#returning = 0
  }

  get isReturning(): boolean {
    return this.#returning > 0
  }

  get isOwing(): boolean {
    return this.#used > 0 || this.room > 0 || (this.#reserved === 0 && !this.#isReporting)
  }
}
