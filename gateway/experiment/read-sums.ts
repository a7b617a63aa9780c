// Sums by arm and metric, over the subjects that are in the analysis. Grouped by subject in SQL: what comes back is as long
// as the list of arms and metrics, however many requests there were.
import { type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { Sums } from './compare-arms.ts'

/** Metrics by rule, and which way is better; feedback cannot take their names. */
export const RULED = { error: 'lower', refusal: 'lower', ttft: 'lower', completion_tokens: 'lower' } as const

export interface ArmSums extends Sums {
  readonly arm: string
  readonly metric: string
}

export interface Bucketed {
  readonly tenantId: string
  readonly id: string
  readonly bucketVersion: number
}

/** Σ over subjects of what `observed` (arm, who, metric, value) holds. */
const grouped = (observed: SQL): SQL => sql`
  subjects AS (SELECT arm, metric, who, sum(value) AS s, count(*) AS n FROM (${observed}) GROUP BY arm, metric, who)
  SELECT arm, metric, count(*) AS subjects, total(s) AS s, total(n) AS n, total(s * s) AS ss, total(s * n) AS sn,
    total(n * n) AS nn FROM subjects GROUP BY arm, metric ORDER BY arm, metric`

/**
 * A subject's requests count from the exposure on, and only those that its own arm answered: what the control served
 * before a ramp came to it is no outcome of the arm. Whoever was ever served another arm is out.
 */
export async function readSums(db: DrizzleD1Database, { tenantId, id, bucketVersion }: Bucketed): Promise<ArmSums[]> {
  const answered = (metric: string, column: SQL) => sql`
    SELECT arm, who, ${metric} AS metric, ${column} AS value FROM seen WHERE status = 'settled' AND ${column} IS NOT NULL`
  return db.all<ArmSums>(sql`
    WITH exposed AS (
      SELECT e.assigned_arm_id AS arm, coalesce('u' || u.user_id, 'k' || u.key_id) AS who, e.created_at AS since
      FROM exposures e JOIN usage u ON u.request_id = e.request_id
      WHERE e.tenant_id = ${tenantId} AND e.experiment_id = ${id} AND e.bucket_version = ${bucketVersion} AND e.analysed = 1
    ), seen AS (
      SELECT exposed.arm, exposed.who, r.request_id, r.status, r.ttft_ms, r.completion_tokens
      FROM usage r JOIN exposed ON exposed.who = coalesce('u' || r.user_id, 'k' || r.key_id)
      WHERE r.tenant_id = ${tenantId} AND r.experiment_id = ${id} AND r.bucket_version = ${bucketVersion}
        AND r.arm_id = exposed.arm AND r.created_at >= exposed.since
    ), ${grouped(sql`
      SELECT arm, who, 'error' AS metric, status = 'failed' AS value FROM seen WHERE status IN ('settled', 'failed')
      UNION ALL ${answered('ttft', sql`ttft_ms`)}
      UNION ALL ${answered('completion_tokens', sql`completion_tokens`)}
      UNION ALL SELECT arm, who, 'refusal', EXISTS (
        SELECT 1 FROM outcomes o WHERE o.request_id = seen.request_id AND o.source = 'rule' AND o.metric = 'refusal'
      ) FROM seen WHERE status = 'settled'
      UNION ALL SELECT arm, who, o.metric, o.value FROM seen JOIN outcomes o ON o.request_id = seen.request_id
        WHERE o.source = 'feedback'
    `)}`)
}

/** Of shadow arms: every copy, whoever's. */
export function readShadowSums(db: DrizzleD1Database, { tenantId, id, bucketVersion }: Bucketed): Promise<ArmSums[]> {
  const answered = (metric: string, column: SQL) => sql`
    SELECT arm, who, ${metric} AS metric, ${column} AS value FROM seen WHERE status = 'settled' AND ${column} IS NOT NULL`
  return db.all<ArmSums>(sql`
    WITH seen AS (
      SELECT arm_id AS arm, subject AS who, status, ttft_ms, completion_tokens, refused FROM shadows
      WHERE tenant_id = ${tenantId} AND experiment_id = ${id} AND bucket_version = ${bucketVersion}
    ), ${grouped(sql`
      SELECT arm, who, 'error' AS metric, status = 'failed' AS value FROM seen WHERE status <> 'open'
      UNION ALL ${answered('ttft', sql`ttft_ms`)}
      UNION ALL ${answered('completion_tokens', sql`completion_tokens`)}
      UNION ALL ${answered('refusal', sql`refused`)}
    `)}`)
}

export interface ExposedCount {
  readonly day: number
  readonly arm: string
  readonly subjects: number
  readonly analysed: number
}

const DAY_MS = 86_400_000

/** Subjects by day of their exposure and by the arm that they were assigned to. */
export function readExposed(db: DrizzleD1Database, { tenantId, id, bucketVersion }: Bucketed): Promise<ExposedCount[]> {
  return db.all<ExposedCount>(sql`
    SELECT created_at / ${DAY_MS} AS day, assigned_arm_id AS arm, count(*) AS subjects, sum(analysed) AS analysed
    FROM exposures WHERE tenant_id = ${tenantId} AND experiment_id = ${id} AND bucket_version = ${bucketVersion}
    GROUP BY 1, 2 ORDER BY 1`)
}

interface ArmCount {
  readonly arm: string
  readonly subjects: number
}

/** By arm, the first `most` subjects that were exposed; `analysed`: of those in the analysis, and in the arms that stand. */
export function readFirstExposed(
  db: DrizzleD1Database,
  { tenantId, id, bucketVersion }: Bucketed,
  most: number,
  analysed?: readonly string[],
): Promise<ArmCount[]> {
  const among =
    analysed === undefined
      ? sql`1`
      : sql`analysed = 1 AND assigned_arm_id IN (SELECT value FROM json_each(${JSON.stringify(analysed)}))`
  return db.all<ArmCount>(sql`
    SELECT arm, count(*) AS subjects FROM (
      SELECT assigned_arm_id AS arm FROM exposures
      WHERE tenant_id = ${tenantId} AND experiment_id = ${id} AND bucket_version = ${bucketVersion} AND ${among}
      ORDER BY created_at, subject LIMIT ${most}
    ) GROUP BY arm`)
}
