// What the database is asked and told about leases: each a statement over any number of them, given as JSON.
import type { SqlDatabase, SqlStatement } from '../database/migrate.ts'
import type { Claim } from './claim.ts'
import { BLOCK_REQUESTS, BLOCK_SHARE, LEASE_MS, type Lease, type Report } from './lease.ts'

/** A lease that nobody came back to for so long is of a gateway that is gone. */
const FORGOTTEN_MS = 24 * 3_600_000

const at = (name: string) => `(item.value ->> '${name}')`
const isThis = (table: string) =>
  `${table}.tenant_id = ${at('tenantId')} and ${table}.limit_id = ${at('limit')} and ${table}.subject = ${at('subject')} and ${table}.start = ${at('start')}`
const ROOM = `(${at('most')} - w.used - w.held)`
/**
 * What waits, wherever there is room for all of it; beyond it a block, which leaves most of the room to others. Of whole
 * requests: two gateways with half of one each would serve none.
 */
const GRANT = `case when ${ROOM} < ${at('need')} then 0 else ${at('need')} + max(0, min(${at('block')}, ${ROOM} / ${BLOCK_SHARE}) - ${at('need')}) / ${at('unit')} * ${at('unit')} end`
/** A report that comes twice finds another number of reports. */
const IS_NEXT = `lease.id = ${at('id')} and lease.reports = ${at('report')}`

const OPEN = `insert into "limit_windows" ("tenant_id", "limit_id", "subject", "start", "end", "used", "held") select ${at('tenantId')}, ${at('limit')}, ${at('subject')}, ${at('start')}, ${at('end')}, 0, 0 from json_each(?1) as item where true on conflict do nothing`
const TAKE = `insert into "limit_leases" ("id", "tenant_id", "limit_id", "subject", "start", "amount", "added", "reports", "until") select ${at('id')}, w.tenant_id, w.limit_id, w.subject, w.start, ${GRANT}, ${GRANT}, 0, ${at('until')} from json_each(?1) as item join "limit_windows" as w on ${isThis('w')} where true on conflict ("id") do update set "amount" = "amount" + excluded."added", "added" = excluded."added", "until" = excluded."until" returning "id", "added"`
const HOLD = `update "limit_windows" as w set "held" = w.held + lease.added from json_each(?1) as item join "limit_leases" as lease on lease.id = ${at('id')} where ${isThis('w')}`

const COUNT = `update "limit_windows" as w set "used" = w.used + ${at('used')}, "held" = w.held - min(${at('back')}, lease.amount) from json_each(?1) as item join "limit_leases" as lease on ${IS_NEXT} where ${isThis('w')}`
const RETURN = `update "limit_leases" as lease set "amount" = lease.amount - min(${at('back')}, lease.amount), "reports" = lease.reports + 1, "until" = ${at('until')} from json_each(?1) as item where ${IS_NEXT}`
const END = `delete from "limit_leases" where "id" in (select ${at('id')} from json_each(?1) as item where ${at('isLast')}) and "amount" = 0`

const FREE = `update "limit_windows" as w set "held" = w.held - lapsed.amount from (select tenant_id, limit_id, subject, start, sum(amount) as amount from "limit_leases" where "tenant_id" = ?1 and "until" <= ?2 group by 1, 2, 3, 4) as lapsed where w.tenant_id = lapsed.tenant_id and w.limit_id = lapsed.limit_id and w.subject = lapsed.subject and w.start = lapsed.start`
const LAPSE = `update "limit_leases" set "amount" = 0 where "tenant_id" = ?1 and "until" <= ?2 and "amount" > 0 returning "id"`
const FORGET = `delete from "limit_leases" where "until" <= ?1`

export interface Wanted {
  readonly lease: Lease
  readonly claim: Claim
  /** What its room is short of. */
  readonly need: number
  /** Beside what it needs, so that those who follow need not ask. */
  readonly withBlock: boolean
}

/** What was granted, in the order of `wanted`; nothing or less than is needed where there is no room. */
export async function take(db: SqlDatabase, wanted: readonly Wanted[], now: number): Promise<readonly number[]> {
  const until = now + LEASE_MS
  const items = JSON.stringify(
    wanted.map(({ lease, claim, need, withBlock }) => ({
      ...lease.window,
      id: lease.id,
      most: claim.most,
      need,
      unit: Math.max(1, claim.taken + claim.held),
      block: withBlock ? (claim.taken + claim.held) * BLOCK_REQUESTS : 0,
      until,
    })),
  )
  const all = [OPEN, TAKE, HOLD].map((sql) => db.prepare(sql).bind(items))
  const results = (await db.batch(all)) as readonly { results: readonly { id: string; added: number }[] }[]
  return wanted.map(({ lease }) => results[1]?.results.find(({ id }) => id === lease.id)?.added ?? 0)
}

export function writeReports(db: SqlDatabase, reports: readonly Report[]): SqlStatement[] {
  if (reports.length === 0) return []
  const items = JSON.stringify(reports)
  return [COUNT, RETURN, END].map((sql) => db.prepare(sql).bind(items))
}

/** Frees what gateways hold that have died. True where there was any. */
export async function freeLapsed(db: SqlDatabase, tenantId: string, now: number): Promise<boolean> {
  const results = (await db.batch([
    db.prepare(FREE).bind(tenantId, now),
    db.prepare(LAPSE).bind(tenantId, now),
    db.prepare(FORGET).bind(now - FORGOTTEN_MS),
  ])) as readonly { results: readonly unknown[] }[]
  return (results[1]?.results.length ?? 0) > 0
}
