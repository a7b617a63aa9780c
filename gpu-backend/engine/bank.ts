// The bank: which adapter is in which slot, and what the low-rank paths of a step read.
import type { Site } from '../../compiler/graph/sites.ts'
import type { Tensor } from '../../runtime/session.ts'
import { type Factors, feedsOf, type Packed, prepare } from './packed.ts'
import { Places } from './places.ts'

export class Bank {
  /** The largest that an adapter may have. What a step costs depends on the adapters that it uses alone. */
  readonly rank: number
  readonly #sites: readonly Site[]
  /** Slot 0 is the base's and stays empty. */
  readonly #slots: (Packed | null)[]
  readonly #places: Places
  readonly #alone = new WeakMap<Packed, Record<string, Tensor>>()
  /** x·0·0 adds nothing to the base. */
  readonly #zeros: Packed

  /** `slots` counts slot 0; `rows`: the most of a batch. */
  constructor(sites: readonly Site[], { slots, rank, rows }: { slots: number; rank: number; rows: number }) {
    this.rank = rank
    this.#sites = sites
    this.#slots = Array.from({ length: slots }, () => null)
    this.#places = new Places(sites, rows)
    this.#zeros = prepare(sites, rank, { digest: '', modules: new Map() })
  }

  /** Bytes that the rows' places hold, beside those of the adapters themselves. */
  get placeBytes(): number {
    return this.#places.bytes
  }

  /** Throws `adapter_refused` when the adapter does not fit. */
  prepare(factors: Factors): Packed {
    return prepare(this.#sites, this.rank, factors)
  }

  write(slot: number, packed: Packed): void {
    if (slot === 0) throw new Error('sidepath bug: slot 0 is the base and is never written')
    this.#slots[slot] = packed
  }

  /** The adapter that all of these slots hold, where it is one. */
  only([slot = 0, ...others]: readonly number[]): Packed | undefined {
    return others.every((other) => other === slot) ? (this.#slots[slot] ?? undefined) : undefined
  }

  /** Inputs for rows `first` … of the cache, each with its slot. One adapter for all is read where it lies. */
  feeds(first: number, slots: readonly number[]): Record<string, Tensor> {
    const rows = slots.map((slot) => this.#slots[slot] ?? null)
    const [one = null] = rows
    if (rows.some((row) => row !== one)) return this.#places.feeds(first, rows)
    const packed = one ?? this.#zeros
    let feeds = this.#alone.get(packed)
    if (feeds === undefined) {
      feeds = feedsOf(this.#sites, packed)
      this.#alone.set(packed, feeds)
    }
    return feeds
  }
}
