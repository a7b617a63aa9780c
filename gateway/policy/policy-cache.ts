// Policies that were read a moment ago, each good only for the epoch of the registry at which it was read.
// A request never believes a kept policy whose epoch was not asked for within FRESH_MS: so a revocation, by whichever way
// it was written, holds everywhere for every request that begins FRESH_MS after it.
import { eq, gt, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { issuers, policyEpochs } from '../database/schema.ts'
import { elapsed } from '../elapsed.ts'
import { type Caller, type Loaded, loadPolicy } from './load-policy.ts'
import type { Registry } from './policy.ts'

/** Half of the 2 s that are promised; the other half is for the answer of a slow database. */
export const FRESH_MS = 1_000
/** Of an isolate's 128 MB: a policy of a few grants takes some kilobytes. */
const MAX_KEPT = 10_000
/** Tenants with a registry in memory. As many names of versions go along with each read. */
const MAX_REGISTRIES = 64
/** A token's groups are part of what a policy is kept by; longer lists are read each time. */
const MAX_NAME_CHARS = 2_000

type IssuerRow = typeof issuers.$inferSelect

interface Kept {
  readonly value: unknown
  /** Whose changes concern it. */
  readonly tenantId: string | null
  /** Of all tenants, when it was read. */
  readonly epoch: number
}

export class PolicyCache {
  readonly #now: () => number
  /** In the order of use, the latest last. */
  readonly #kept = new Map<string, Kept>()
  readonly #registries = new Map<string, Registry>()
  /** The highest epoch that was seen, and when it was asked for. */
  #seen = 0
  #askedAt = Number.NEGATIVE_INFINITY

  constructor(now: () => number) {
    this.#now = now
  }

  /** Undefined: no such key. One round trip at most, unless the registry has just changed. */
  load(db: DrizzleD1Database, caller: Caller): Promise<Loaded | undefined> {
    return this.#read(db, nameOf(caller), async () => {
      const value = await loadPolicy(db, caller, new Map(this.#registries))
      if (value === undefined) return undefined
      if (value.policy !== null)
        keepLatest(this.#registries, value.registryVersion, value.policy.registry, MAX_REGISTRIES)
      return { value, tenantId: value.tenantId, epoch: value.epoch }
    })
  }

  loadIssuer(db: DrizzleD1Database, issuer: string): Promise<IssuerRow | undefined> {
    return this.#read(db, JSON.stringify([issuer]), async () => {
      const [[value], [state]] = await db.batch([
        db.select().from(issuers).where(eq(issuers.issuer, issuer)),
        db.select({ epoch: sql<number>`coalesce(max(${policyEpochs.epoch}), 0)` }).from(policyEpochs),
      ])
      return value && { value, tenantId: value.tenantId, epoch: state?.epoch ?? 0 }
    })
  }

  /** After a change that went through this gateway: it is seen at once here. */
  forget(): void {
    this.#kept.clear()
    this.#registries.clear()
  }

  async #read<T>(
    db: DrizzleD1Database,
    name: string,
    load: () => Promise<(Kept & { readonly value: T }) | undefined>,
  ): Promise<T | undefined> {
    if (this.#kept.has(name) && elapsed(this.#now(), this.#askedAt) >= FRESH_MS) await this.#ask(db)
    const kept = this.#kept.get(name)
    if (kept !== undefined) {
      keepLatest(this.#kept, name, kept, MAX_KEPT)
      return kept.value as T
    }
    const askedAt = this.#now()
    const loaded = await load()
    if (loaded === undefined) return undefined
    if (this.#kept.size === 0) {
      // Nothing is kept that an earlier change could concern.
      this.#seen = Math.max(this.#seen, loaded.epoch)
      this.#askedAt = askedAt
    }
    // Not what was read before a change that was seen meanwhile.
    if (loaded.epoch >= this.#seen && name.length <= MAX_NAME_CHARS) keepLatest(this.#kept, name, loaded, MAX_KEPT)
    return loaded.value
  }

  /** Requests do not wait for one another's: on Workers, what one request waits for another must not. */
  async #ask(db: DrizzleD1Database): Promise<void> {
    const askedAt = this.#now()
    const changed = await db.select().from(policyEpochs).where(gt(policyEpochs.epoch, this.#seen))
    for (const { tenantId, epoch } of changed) {
      for (const [name, kept] of this.#kept) {
        if (kept.epoch < epoch && (tenantId === '' || tenantId === kept.tenantId)) this.#kept.delete(name)
      }
      this.#seen = Math.max(this.#seen, epoch)
    }
    this.#askedAt = askedAt
  }
}

function keepLatest<T>(map: Map<string, T>, name: string, value: T, most: number): void {
  map.delete(name)
  map.set(name, value)
  if (map.size <= most) return
  for (const first of map.keys()) {
    map.delete(first)
    return
  }
}

/** Kinds cannot be taken for each other, nor one user's groups for another's. */
function nameOf(caller: Caller): string {
  if (caller.kind === 'key') return caller.keyId
  return JSON.stringify([caller.tenantId, caller.userId, caller.groups])
}
