// Appends to the audit trail: reads its head, and writes the next row together with what it is about.
import { asc, desc, gt } from 'drizzle-orm'
import type { BatchItem } from 'drizzle-orm/batch'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { type AuditEntry, follow, type Head, hashEntry, START } from './audit-chain.ts'
import { audit } from './database/records.ts'

/** Each try of a crowd lets one through; admins are few. */
const MAX_TRIES = 40
/** Rows of before the chain that are read at a time, once in the life of a database. */
const PAGE_ROWS = 1_000

/** All of it, or nothing. Of two that append at once one is refused by the database, and tries again on the new head. */
export async function appendAudit(
  db: DrizzleD1Database,
  entry: Omit<AuditEntry, 'id'>,
  writes: readonly BatchItem<'sqlite'>[],
): Promise<void> {
  for (let tries = 1; ; tries++) {
    const head = await readHead(db)
    const row = { id: head.id + 1, ...entry }
    const chained = { ...row, previousHash: head.hash, hash: await hashEntry(head.hash, row) }
    try {
      await db.batch([db.insert(audit).values(chained), ...writes])
      return
    } catch (error) {
      if (tries === MAX_TRIES || !isOvertaken(error)) throw error
    }
  }
}

async function readHead(db: DrizzleD1Database): Promise<Head> {
  const [last] = await db.select().from(audit).orderBy(desc(audit.id)).limit(1)
  if (last === undefined) return START
  if (last.hash !== null) return { id: last.id, hash: last.hash, chained: true }
  let head = START
  for (;;) {
    const rows = await db.select().from(audit).where(gt(audit.id, head.id)).orderBy(asc(audit.id)).limit(PAGE_ROWS)
    for (const row of rows) {
      const step = await follow(head, row)
      // Another has begun the chain meanwhile: its rows are well, or the append will say so.
      if (!step.ok) throw new Error('the audit trail is broken')
      head = step.head
    }
    if (rows.length < PAGE_ROWS) return head
  }
}

function isOvertaken(error: unknown): boolean {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause.message : ''
  return /audit is a chain|UNIQUE constraint failed: audit\./.test(
    `${error instanceof Error ? error.message : ''} ${cause}`,
  )
}
