// The bank: which adapter is in which slot, and what the low-rank paths of a step read.
import type { Linear } from '../../compiler/contract.ts'
import type { Site } from '../../compiler/graph/sites.ts'
import type { Tensor } from '../../runtime/session.ts'
import { BackendError } from '../errors.ts'
import { type Factors, feedsOf, type Packed, pack } from './packed.ts'
import { Places } from './places.ts'

export class Bank {
  /** The largest that an adapter may have. What a step costs depends on the adapters that it uses alone. */
  readonly rank: number
  readonly #sites: readonly Site[]
  readonly #linears: ReadonlyMap<string, Linear>
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
    this.#linears = new Map(sites.flatMap(({ linears }) => linears.map((linear) => [linear.module, linear])))
    this.#slots = Array.from({ length: slots }, () => null)
    this.#places = new Places(sites, rows)
    this.#zeros = pack(sites, { digest: '', modules: new Map() })
  }

  /** Bytes that the rows' places hold, beside those of the adapters themselves. */
  get placeBytes(): number {
    return this.#places.bytes
  }

  /** Throws `adapter_refused` when the adapter does not fit. */
  prepare(factors: Factors): Packed {
    const { digest, modules } = factors
    for (const [module, { A, B, r }] of modules) {
      const linear = this.#linears.get(module)
      if (linear === undefined) throw refused(digest, `changes "${module}", which has no place in the bank`)
      if (r > this.rank) {
        throw refused(
          digest,
          `has r=${r} at "${module}"; the bank holds r=${this.rank} at most; start with bankRank ${r}`,
        )
      }
      if (A.length !== linear.in * r || B.length !== r * linear.out)
        throw refused(digest, `has factors of a wrong size at "${module}"`)
    }
    return pack(this.#sites, factors)
  }

  write(slot: number, packed: Packed): void {
    if (slot === 0) throw new Error('sidepath bug: slot 0 is the base and is never written')
    this.#slots[slot] = packed
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

function refused(digest: string, what: string): BackendError {
  return new BackendError('adapter_refused', `adapter ${digest.slice(0, 12)} ${what}`)
}
