// What a request would take of the limits on it, and which of them are in its way.
import { type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { limitWindows } from '../database/records.ts'
import { type AppliedLimit, type Metric, WINDOW_MS } from './limit.ts'

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

const field = (name: keyof Claim): SQL => sql.raw(`item.value ->> '${name}'`)
const itemsOf = (items: readonly object[]): SQL => sql`json_each(${JSON.stringify(items)}) as item`
const isThis = (tenantId: string): SQL =>
  sql`${limitWindows.tenantId} = ${tenantId} and ${limitWindows.limitId} = ${field('limit')} and ${limitWindows.subject} = ${field('subject')} and ${limitWindows.start} = ${field('start')}`

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
