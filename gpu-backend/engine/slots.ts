// Which adapter holds which slot of the bank: least recently used goes first, and never one that a row is using.
// Adapters are known by the digest of their content: a name can be given to other content, a digest cannot.

export interface Resident {
  readonly digest: string
  readonly slot: number
  /** Rows that use it now. */
  readonly pins: number
}

interface Held {
  readonly digest: string
  readonly slot: number
  pins: number
}

/** Slots 1 … count. Slot 0 is the base's: all zeros, never given away. */
export class Slots {
  /** Least recently used first. */
  readonly #held = new Map<string, Held>()
  readonly #empty: number[]

  constructor(count: number) {
    this.#empty = Array.from({ length: count }, (_, index) => count - index)
  }

  /** Slots that could take an adapter now. */
  get free(): number {
    let unpinned = 0
    for (const { pins } of this.#held.values()) if (pins === 0) unpinned += 1
    return this.#empty.length + unpinned
  }

  /** The slot, protected until `release`; undefined when the adapter is not resident. */
  pin(digest: string): number | undefined {
    const held = this.#held.get(digest)
    if (held === undefined) return undefined
    held.pins += 1
    this.#touch(held)
    return held.slot
  }

  release(digest: string): void {
    const held = this.#held.get(digest)
    if (held === undefined || held.pins === 0) throw new Error('sidepath bug: a slot was released that was not pinned')
    held.pins -= 1
  }

  find(digest: string): Resident | undefined {
    return this.#held.get(digest)
  }

  /** A slot for an adapter that is not resident, taken from the least recently used if need be; undefined: all pinned. */
  take(digest: string): number | undefined {
    let slot = this.#empty.pop()
    if (slot === undefined) {
      for (const held of this.#held.values()) {
        if (held.pins > 0) continue
        this.#held.delete(held.digest)
        slot = held.slot
        break
      }
    }
    if (slot !== undefined) this.#held.set(digest, { digest, slot, pins: 0 })
    return slot
  }

  /** False when a row is using it, or when it is not resident. */
  evict(digest: string): boolean {
    const held = this.#held.get(digest)
    if (held === undefined || held.pins > 0) return false
    this.#held.delete(digest)
    this.#empty.push(held.slot)
    return true
  }

  list(): Resident[] {
    return [...this.#held.values()].map(({ digest, slot, pins }) => ({ digest, slot, pins }))
  }

  #touch(held: Held): void {
    this.#held.delete(held.digest)
    this.#held.set(held.digest, held)
  }
}
