// Adapters in host memory, with or without a slot, within a budget. The least recently used goes first, and a tenant that
// goes through many adapters takes that memory from itself before it takes it from others.

interface Held {
  readonly digest: string
  readonly bytes: number
}

interface Entry<H> {
  readonly packed: H
  /** Who asked for it last. */
  tenant: string
  usedMs: number
}

export interface HostTierOptions<H extends Held> {
  readonly budgetBytes: number
  readonly nowMs: () => number
  /** By a row, or about to be: it stays, even above the budget. */
  readonly isUsed: (digest: string) => boolean
  readonly onDropped: (packed: H) => void
}

/** So long after its last use an adapter is no longer what its tenant's share of the memory is for. */
export const SHARE_MS = 10 * 60 * 1000

export class HostTier<H extends Held> {
  readonly #options: HostTierOptions<H>
  /** Least recently used first. */
  readonly #entries = new Map<string, Entry<H>>()
  #bytes = 0

  constructor(options: HostTierOptions<H>) {
    this.#options = options
  }

  get bytes(): number {
    return this.#bytes
  }

  has(digest: string): boolean {
    return this.#entries.has(digest)
  }

  /** Counts as a use. */
  use(digest: string, tenant: string): H | undefined {
    const entry = this.#entries.get(digest)
    if (entry === undefined) return undefined
    entry.tenant = tenant
    entry.usedMs = this.#options.nowMs()
    this.#entries.delete(digest)
    this.#entries.set(digest, entry)
    return entry.packed
  }

  /** Others go for it where the memory does not suffice; it stays. */
  add(packed: H, tenant: string): void {
    this.#entries.set(packed.digest, { packed, tenant, usedMs: this.#options.nowMs() })
    this.#bytes += packed.bytes
    this.#trim(packed.digest)
  }

  /** To be called when one is no longer used that was. */
  trim(): void {
    this.#trim(undefined)
  }

  drop(digest: string): void {
    const entry = this.#entries.get(digest)
    if (entry === undefined) return
    this.#entries.delete(digest)
    this.#bytes -= entry.packed.bytes
    this.#options.onDropped(entry.packed)
  }

  #trim(kept: string | undefined): void {
    while (this.#bytes > this.#options.budgetBytes) {
      const victim = this.#victim(kept)
      if (victim === undefined) return
      this.drop(victim)
    }
  }

  /**
   * The least recently used of those that are beyond a tenant's share: what it holds when it holds more than the budget
   * divided by the number of tenants, and what nobody has used for long. Where all keep to their shares, of all.
   */
  #victim(kept: string | undefined): string | undefined {
    const { budgetBytes, nowMs, isUsed } = this.#options
    const held = new Map<string, number>()
    for (const { tenant, packed } of this.#entries.values()) held.set(tenant, (held.get(tenant) ?? 0) + packed.bytes)
    const share = budgetBytes / held.size
    const staleMs = nowMs() - SHARE_MS
    let oldest: string | undefined
    for (const [digest, { tenant, usedMs }] of this.#entries) {
      if (digest === kept || isUsed(digest)) continue
      oldest ??= digest
      if (usedMs < staleMs || (held.get(tenant) ?? 0) > share) return digest
    }
    return oldest
  }
}
