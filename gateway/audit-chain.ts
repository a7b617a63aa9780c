// The audit trail as a chain: the hash of each row covers the row and the hash of the one before it, so that no row can be
// changed, left out or put in between without every later hash being wrong. Rows of before the chain have no hash of
// their own; the first chained row continues the hash that they would have had, so they are covered as well.
import { sha256 } from './digest.ts'

/** What comes before the first row. */
export const GENESIS = '0'.repeat(64)

export interface AuditEntry {
  readonly id: number
  readonly at: number
  readonly actor: string
  readonly action: string
  readonly resource: string
  readonly beforeDigest: string | null
  readonly afterDigest: string | null
}

export interface AuditRow extends AuditEntry {
  readonly previousHash: string | null
  readonly hash: string | null
}

/** SHA-256 of a JSON array: the previous hash, then the fields in this order. */
export const hashEntry = async (previous: string, entry: AuditEntry): Promise<string> =>
  sha256(
    JSON.stringify([
      previous,
      entry.id,
      entry.at,
      entry.actor,
      entry.action,
      entry.resource,
      entry.beforeDigest,
      entry.afterDigest,
    ]),
  )

/** The last row that was looked at. */
export interface Head {
  readonly id: number
  readonly hash: string
  /** The row had its hash; later ones must. */
  readonly chained: boolean
}

export const START: Head = { id: 0, hash: GENESIS, chained: false }

export type Step =
  | { readonly ok: true; readonly head: Head }
  | { readonly ok: false; readonly id: number; readonly why: string }

/** From the head to the next row by id, or what is wrong with that row. */
export async function follow(head: Head, row: AuditRow): Promise<Step> {
  const broken = (why: string): Step => ({ ok: false, id: row.id, why })
  const hash = await hashEntry(head.hash, row)
  if (row.hash === null) {
    return head.chained
      ? broken('it has no hash, though the row before it has one')
      : { ok: true, head: { id: row.id, hash, chained: false } }
  }
  if (head.chained && row.id !== head.id + 1) {
    return broken(`rows ${head.id + 1} to ${row.id - 1} before it are missing`)
  }
  if (row.previousHash !== head.hash) return broken('it does not continue the row before it, or that was changed')
  if (row.hash !== hash) return broken('what it says is not what was hashed')
  return { ok: true, head: { id: row.id, hash, chained: true } }
}
