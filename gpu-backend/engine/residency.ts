// Brings adapters from the store into slots: read and checked first, and only then given a slot, so that a bad adapter
// costs nobody theirs.
import type { Mix } from '../contract.ts'
import { BackendError } from '../errors.ts'
import type { Resident, Slots } from './slots.ts'

/** An adapter as it is kept in host memory and as its bank takes it. */
export interface Held {
  readonly digest: string
  readonly bytes: number
}

export interface ResidencyOptions<H extends Held> {
  readonly slots: Slots
  readonly bank: { write(slot: number, packed: H): void }
  /** Of adapters in host memory, those in slots among them. These stay even where they alone exceed it. */
  readonly hostBudgetBytes: number
  /** Reads an adapter by digest and verifies it, or makes a mix. Throws `model_not_found` or `adapter_refused`. */
  readonly read: (digest: string, mix?: Mix) => Promise<H>
  /** A read has ended; `error` is undefined where the adapter can be pinned now. Who does not want it calls `forget`. */
  readonly onLoaded: (digest: string, error: unknown) => void
}

/** `loading`: try again after `onLoaded`. `full`: every slot is in use or promised; try again after a release. */
export type Pinned = number | 'loading' | 'full'

export class Residency<H extends Held = Held> {
  readonly #options: ResidencyOptions<H>
  readonly #loading = new Map<string, Promise<H>>()
  /** Read and checked, not yet in a slot. */
  readonly #ready = new Map<string, H>()
  /** Once placed, kept beyond its slot; least recently placed first. */
  readonly #host = new Map<string, H>()
  #hostBytes = 0

  constructor(options: ResidencyOptions<H>) {
    this.#options = options
  }

  get free(): number {
    return this.#options.slots.free
  }

  /** `mix`: what it is made of, where `digest` is that of a mix; it holds a slot like any adapter, its parts none. */
  pin(digest: string, mix?: Mix): Pinned {
    const { slots } = this.#options
    const slot = slots.pin(digest)
    if (slot !== undefined) return slot
    const ready = this.#ready.get(digest) ?? this.#host.get(digest)
    if (ready !== undefined) {
      if (this.#place(ready) === undefined) return 'full'
      this.#ready.delete(digest)
      return slots.pin(digest)!
    }
    if (this.#loading.has(digest)) return 'loading'
    if (slots.free <= this.#loading.size + this.#ready.size) return 'full'
    // The waiting row hears of a failure through `onLoaded`.
    this.#read(digest, mix).catch(() => {})
    return 'loading'
  }

  release(digest: string): void {
    this.#options.slots.release(digest)
  }

  /** Nobody waits for it any more. */
  forget(digest: string): void {
    this.#ready.delete(digest)
  }

  /** Makes it resident without a row that uses it. Throws `slots_full` when rows use all slots. */
  async load(digest: string, mix?: Mix): Promise<number> {
    const { slots } = this.#options
    const before = slots.find(digest)
    if (before !== undefined) return before.slot
    const packed =
      this.#ready.get(digest) ??
      this.#host.get(digest) ??
      (await (this.#loading.get(digest) ?? this.#read(digest, mix)))
    this.#ready.delete(digest)
    const slot = slots.find(digest)?.slot ?? this.#place(packed)
    if (slot === undefined) throw new BackendError('slots_full', 'every adapter slot is in use; try again later')
    return slot
  }

  /** Out of its slot and out of host memory. Throws `adapter_in_use` or `model_not_found`. */
  unload(digest: string): void {
    const { slots } = this.#options
    const held = slots.find(digest)
    if (held === undefined && this.#host.has(digest)) {
      this.#drop(digest)
      return
    }
    if (held === undefined) throw new BackendError('model_not_found', 'that adapter is not resident')
    if (!slots.evict(digest)) {
      throw new BackendError('adapter_in_use', `that adapter is in use by ${held.pins} running request(s)`)
    }
    this.#drop(digest)
  }

  list(): Resident[] {
    return this.#options.slots.list()
  }

  /** Bytes of the adapters in host memory. */
  get hostBytes(): number {
    return this.#hostBytes
  }

  #trim(): void {
    const { slots, hostBudgetBytes } = this.#options
    for (const digest of [...this.#host.keys()]) {
      if (this.#hostBytes <= hostBudgetBytes) return
      if (slots.find(digest) === undefined) this.#drop(digest)
    }
  }

  #drop(digest: string): void {
    this.#hostBytes -= this.#host.get(digest)?.bytes ?? 0
    this.#host.delete(digest)
  }

  #read(digest: string, mix?: Mix): Promise<H> {
    const { read, onLoaded } = this.#options
    const reading = read(digest, mix).then(
      (packed) => {
        this.#loading.delete(digest)
        this.#ready.set(digest, packed)
        return packed
      },
      (error) => {
        this.#loading.delete(digest)
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

  /** Nothing may run between the choice of the slot and the write. */
  #place(packed: H): number | undefined {
    const slot = this.#options.slots.take(packed.digest)
    if (slot === undefined) return undefined
    this.#options.bank.write(slot, packed)
    this.#drop(packed.digest)
    this.#host.set(packed.digest, packed)
    this.#hostBytes += packed.bytes
    this.#trim()
    return slot
  }
}
