// Brings adapters from the store into host memory and from there into slots: read and checked first, and only then given
// a slot, so that a bad adapter costs nobody theirs.
import type { Mix } from '../contract.ts'
import { BackendError } from '../errors.ts'
import { HostTier } from './host-tier.ts'
import type { Resident, Slots } from './slots.ts'

/** An adapter as it is kept in host memory and as its bank takes it. */
export interface Held {
  readonly digest: string
  readonly bytes: number
}

export interface ResidencyOptions<H extends Held> {
  readonly slots: Slots
  readonly bank: { write(slot: number, packed: H): void }
  /** Of adapters in host memory, those in slots among them. Those that rows use stay even where they alone exceed it. */
  readonly hostBudgetBytes: number
  /** Reads an adapter by digest and verifies it, or makes a mix. Throws `model_not_found` or `adapter_refused`. */
  readonly read: (digest: string, mix?: Mix) => Promise<H>
  /** A read has ended; `error` is undefined where the adapter can be pinned now. Who does not want it calls `forget`. */
  readonly onLoaded: (digest: string, error: unknown) => void
  /** It has left host memory, and no slot has it. */
  readonly onDropped?: (packed: H) => void
  readonly nowMs?: () => number
}

/** `loading`: try again after `onLoaded`. `full`: every slot is in use or promised; try again after a release. */
export type Pinned = number | 'loading' | 'full'

/**
 * Reads at once, for all tenants: the rest wait where tenants take turns. A few, so that the reader always has its next,
 * and who comes last waits for no more than these.
 */
const MAX_READS = 4
/** Of them those for somebody whose turn has not come. */
const MAX_PREFETCHES = 2
/** The tenant of what was loaded without a request. */
const NOBODY = ''

export class Residency<H extends Held = Held> {
  readonly #options: ResidencyOptions<H>
  readonly #loading = new Map<string, Promise<void>>()
  /** Being read, or read and not yet in a slot; each will take one. */
  readonly #promised = new Set<string>()
  readonly #host: HostTier<H>

  constructor(options: ResidencyOptions<H>) {
    const { slots, hostBudgetBytes: budgetBytes, onDropped = () => {}, nowMs = () => performance.now() } = options
    this.#options = options
    this.#host = new HostTier({
      budgetBytes,
      nowMs,
      isUsed: (digest) => this.#promised.has(digest) || (slots.find(digest)?.pins ?? 0) > 0,
      onDropped: (packed) => {
        slots.evict(packed.digest)
        onDropped(packed)
      },
    })
  }

  get free(): number {
    return this.#options.slots.free
  }

  /** Bytes of the adapters in host memory. */
  get hostBytes(): number {
    return this.#host.bytes
  }

  /** `mix`: what it is made of, where `digest` is that of a mix; it holds a slot like any adapter, its parts none. */
  pin(digest: string, mix: Mix | undefined, tenant: string): Pinned {
    const { slots } = this.#options
    if (this.#enter(digest, tenant) !== undefined) {
      this.#promised.delete(digest)
      return slots.pin(digest)!
    }
    if (this.#host.has(digest)) return 'full'
    if (this.#promised.has(digest)) return 'loading'
    if (slots.free <= this.#promised.size) return 'full'
    if (!this.#loading.has(digest)) {
      if (this.#loading.size >= MAX_READS) return 'loading'
      this.#readInBackground(digest, mix, tenant)
    }
    this.#promised.add(digest)
    return 'loading'
  }

  release(digest: string): void {
    this.#options.slots.release(digest)
  }

  /** Reads it into host memory, for somebody whose turn has not come. Nothing, where the reader has enough to do. */
  prefetch(digest: string, mix: Mix | undefined, tenant: string): void {
    if (this.#host.has(digest) || this.#loading.has(digest) || this.#loading.size >= MAX_PREFETCHES) return
    this.#readInBackground(digest, mix, tenant)
  }

  /** Nobody waits for it any more; it stays in host memory as long as there is room. */
  forget(digest: string): void {
    this.#promised.delete(digest)
    this.#host.trim()
  }

  /** Makes it resident without a row that uses it. Throws `slots_full` when rows use all slots. */
  async load(digest: string, mix?: Mix): Promise<number> {
    if (!this.#host.has(digest)) {
      this.#promised.add(digest)
      try {
        await (this.#loading.get(digest) ?? this.#read(digest, mix, NOBODY))
      } finally {
        this.#promised.delete(digest)
      }
    }
    const slot = this.#enter(digest, NOBODY)
    if (slot === undefined) throw new BackendError('slots_full', 'every adapter slot is in use; try again later')
    return slot
  }

  /** Out of its slot and out of host memory. Throws `adapter_in_use` or `model_not_found`. */
  unload(digest: string): void {
    const pins = this.#options.slots.find(digest)?.pins ?? 0
    if (!this.#host.has(digest)) throw new BackendError('model_not_found', 'that adapter is not resident')
    if (pins > 0) throw new BackendError('adapter_in_use', `that adapter is in use by ${pins} running request(s)`)
    this.#host.drop(digest)
  }

  list(): Resident[] {
    return this.#options.slots.list()
  }

  /** From host memory into a slot, if it has none. Nothing may run between the choice of the slot and the write. */
  #enter(digest: string, tenant: string): number | undefined {
    const { slots, bank } = this.#options
    const packed = this.#host.use(digest, tenant)
    if (packed === undefined) return undefined
    const before = slots.find(digest)
    if (before !== undefined) return before.slot
    const slot = slots.take(digest)
    if (slot !== undefined) bank.write(slot, packed)
    return slot
  }

  /** Who waits hears of a failure through `onLoaded`. */
  #readInBackground(digest: string, mix: Mix | undefined, tenant: string): void {
    this.#read(digest, mix, tenant).catch(() => {})
  }

  #read(digest: string, mix: Mix | undefined, tenant: string): Promise<void> {
    const { read, onLoaded } = this.#options
    const reading = read(digest, mix).then(
      (packed) => {
        this.#loading.delete(digest)
        this.#host.add(packed, tenant)
      },
      (error) => {
        this.#loading.delete(digest)
        this.#promised.delete(digest)
        throw error
      },
    )
    this.#loading.set(digest, reading)
    reading.then(
      () => onLoaded(digest, undefined),
      (error) => onLoaded(digest, error),
    )
    return reading
  }
}
