// The two statements of every request, built once for a database: to build one anew costs more than to run it.
import { and, eq, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { usage } from '../database/records.ts'

type Usage = typeof usage.$inferInsert
type Settled = Pick<
  typeof usage.$inferSelect,
  'requestId' | 'promptTokens' | 'completionTokens' | 'ttftMs' | 'settledAt'
> & { readonly status: 'settled' | 'aborted' | 'failed' }

const given = (name: string) => sql`${sql.placeholder(name)}`

function build(db: DrizzleD1Database) {
  const row = (name: keyof Usage) => given(name)
  return {
    open: db
      .insert(usage)
      .values({
        requestId: row('requestId'),
        tenantId: row('tenantId'),
        keyId: row('keyId'),
        userId: row('userId'),
        model: row('model'),
        baseDigest: row('baseDigest'),
        adapterId: row('adapterId'),
        adapterDigest: row('adapterDigest'),
        grantId: row('grantId'),
        experimentId: row('experimentId'),
        bucketVersion: row('bucketVersion'),
        armId: row('armId'),
        mix: row('mix'),
        receipt: row('receipt'),
        status: 'open',
        createdAt: row('createdAt'),
      })
      .prepare(),
    settle: db
      .update(usage)
      .set({
        status: given('status'),
        promptTokens: given('promptTokens'),
        completionTokens: given('completionTokens'),
        ttftMs: given('ttftMs'),
        settledAt: given('settledAt'),
      })
      .where(and(eq(usage.requestId, sql.placeholder('requestId')), eq(usage.status, 'open')))
      .prepare(),
  }
}

const built = new WeakMap<DrizzleD1Database, ReturnType<typeof build>>()

function statementsOf(db: DrizzleD1Database) {
  let statements = built.get(db)
  if (statements === undefined) {
    statements = build(db)
    built.set(db, statements)
  }
  return statements
}

export async function insertOpen(db: DrizzleD1Database, row: Omit<Usage, 'status'>): Promise<void> {
  const mix = row.mix == null ? null : JSON.stringify(row.mix)
  await statementsOf(db).open.run({ ...row, mix })
}

export async function settleOpen(db: DrizzleD1Database, settled: Settled): Promise<void> {
  await statementsOf(db).settle.run(settled)
}
