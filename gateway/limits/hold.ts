// Counting against limits, exactly: a request is admitted and its tokens are held in the statements of one batch, which is
// one transaction; when it ends they are exchanged for what it took. No count is ever read, decided on and then written.
import { and, eq, lte, type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { type Hold, limitWindows, usage } from '../database/records.ts'
import { type AppliedLimit, type Metric, WINDOW_MS } from './limit.ts'

/**
 * After it, what a request holds is free again, whether or not it was settled: its gateway may have died. Longer than two
 * tries of a backend may take; a longer stream is still charged when it ends.
 */
export const HOLD_MS = 15 * 60_000
/** No backend counts as much in one request, and the sum of a window stays a number that JavaScript holds exactly. */
const MAX_TAKEN = 1e12

/** What a request would take of one window of one limit. */
export interface Claim {
  readonly limit: string
  readonly metric: Metric
  readonly subject: string
  readonly start: number
  readonly end: number
  /** The limit's. */
  readonly most: number
  /** Taken for good with the admission: a request is one, however it ends. */
  readonly taken: number
  /** Held until the request ends: an upper bound of its tokens or of their cost. */
  readonly held: number
}

/** `bound`: of the tokens, and of their cost. */
export function claimsOn(
  limits: readonly AppliedLimit[],
  bound: Readonly<Record<'tokens' | 'cost', () => number>>,
  now: number,
): readonly Claim[] {
  return limits.map(({ id: limit, metric, window, amount: most, subject }) => {
    const start = now - (now % WINDOW_MS[window])
    const held = metric === 'requests' ? 0 : bound[metric]()
    const taken = metric === 'requests' ? 1 : 0
    return { limit, metric, subject, start, end: start + WINDOW_MS[window], most, taken, held }
  })
}

export const holdsOf = (claims: readonly Claim[]): readonly Hold[] =>
  claims.filter(({ held }) => held > 0).map(({ limit, subject, start, held }) => ({ limit, subject, start, held }))

const field = (name: keyof Claim): SQL => sql.raw(`item.value ->> '${name}'`)
const itemsOf = (items: readonly object[]): SQL => sql`json_each(${JSON.stringify(items)}) as item`
const isThis = (tenantId: string): SQL =>
  sql`${limitWindows.tenantId} = ${tenantId} and ${limitWindows.limitId} = ${field('limit')} and ${limitWindows.subject} = ${field('subject')} and ${limitWindows.start} = ${field('start')}`

/** True where every window has room. */
export const haveRoom = (tenantId: string, claims: readonly Claim[]): SQL =>
  sql`not exists (select 1 from ${itemsOf(claims)} left join ${limitWindows} on ${isThis(tenantId)} where coalesce(${limitWindows.used} + ${limitWindows.held}, 0) + ${field('taken')} + ${field('held')} > ${field('most')})`

/** For the same batch as, and after, the insert of the usage row: where that was not admitted, nothing is counted. */
export const hold = (db: DrizzleD1Database, tenantId: string, claims: readonly Claim[], requestId: string) =>
  db
    .insert(limitWindows)
    .select(
      sql`select ${tenantId}, ${field('limit')}, ${field('subject')}, ${field('start')}, ${field('end')}, ${field('taken')}, ${field('held')} from ${itemsOf(claims)} where exists (select 1 from ${usage} where ${usage.requestId} = ${requestId})`,
    )
    .onConflictDoUpdate({
      target: [limitWindows.tenantId, limitWindows.limitId, limitWindows.subject, limitWindows.start],
      set: {
        used: sql`${limitWindows.used} + excluded.used`,
        held: sql`${limitWindows.held} + excluded.held`,
      },
    })

/** For the same batch as, and before, the settling of the usage row: where that is settled already, nothing is counted. */
export function release(
  db: DrizzleD1Database,
  tenantId: string,
  claims: readonly Claim[],
  requestId: string,
  took: Readonly<Record<'tokens' | 'cost', number>>,
) {
  const items = claims.flatMap((claim) =>
    claim.metric === 'requests' ? [] : [{ ...claim, taken: Math.min(took[claim.metric], MAX_TAKEN) }],
  )
  const open = sql`select 1 from ${usage} where ${usage.requestId} = ${requestId} and ${usage.status} = 'open'`
  // What has lapsed is not held any more.
  const isHeld = sql`exists (${open} and ${usage.heldUntil} is not null)`
  return db
    .update(limitWindows)
    .set({
      used: sql`${limitWindows.used} + ${field('taken')}`,
      held: sql`${limitWindows.held} - case when ${isHeld} then ${field('held')} else 0 end`,
    })
    .from(itemsOf(items))
    .where(and(isThis(tenantId), sql`exists (${open})`))
}

/** Frees what requests of the tenant hold beyond their time. True where there was any. */
export async function releaseLapsed(db: DrizzleD1Database, tenantId: string, now: number): Promise<boolean> {
  const lapsed = and(eq(usage.tenantId, tenantId), eq(usage.status, 'open'), lte(usage.heldUntil, now))
  const sums = sql`(select item.value ->> 'limit' as lapsed_limit, item.value ->> 'subject' as lapsed_subject, item.value ->> 'start' as lapsed_start, sum(item.value ->> 'held') as lapsed_held from ${usage}, json_each(${usage.holds}) as item where ${lapsed} group by 1, 2, 3) as lapsed`
  const [, freed] = await db.batch([
    db
      .update(limitWindows)
      .set({ held: sql`${limitWindows.held} - lapsed_held` })
      .from(sums)
      .where(
        and(
          eq(limitWindows.tenantId, tenantId),
          sql`${limitWindows.limitId} = lapsed_limit and ${limitWindows.subject} = lapsed_subject and ${limitWindows.start} = lapsed_start`,
        ),
      ),
    db.update(usage).set({ heldUntil: null }).where(lapsed).returning({ requestId: usage.requestId }),
  ])
  return freed.length > 0
}

export interface Full {
  readonly claim: Claim
  readonly used: number
  readonly held: number
}

/** The claims that find no room now, to say so. */
export async function findFull(
  db: DrizzleD1Database,
  tenantId: string,
  claims: readonly Claim[],
): Promise<readonly Full[]> {
  const rows = await db
    .select({ at: sql<number>`item.key`, used: limitWindows.used, held: limitWindows.held })
    .from(limitWindows)
    .innerJoin(itemsOf(claims), isThis(tenantId))
  return claims.flatMap((claim, at) => {
    const { used, held } = rows.find((row) => row.at === at) ?? { used: 0, held: 0 }
    return used + held + claim.taken + claim.held > claim.most ? [{ claim, used, held }] : []
  })
}
