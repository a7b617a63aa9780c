// Exposures that this process has written already: each is a fact that is written once, and asks for no second write.
import type { DrizzleD1Database } from 'drizzle-orm/d1'

/** Of an isolate's 128 MB: a name takes some 150 bytes. */
const MAX_KNOWN = 50_000

const known = new WeakMap<DrizzleD1Database, Set<string>>()

export interface ExposureName {
  readonly tenantId: string
  readonly experimentId: string
  readonly bucketVersion: number
  readonly subject: string
  readonly analysed: boolean
}

const nameOf = (of: ExposureName) =>
  JSON.stringify([of.tenantId, of.experimentId, of.bucketVersion, of.subject, of.analysed])

export const isKnown = (db: DrizzleD1Database, of: ExposureName): boolean => known.get(db)?.has(nameOf(of)) === true

/** Only after the database has it. */
export function remember(db: DrizzleD1Database, of: ExposureName): void {
  const names = known.get(db) ?? new Set()
  if (names.size >= MAX_KNOWN) names.clear()
  names.add(nameOf(of))
  known.set(db, names)
}
