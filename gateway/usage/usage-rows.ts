// Rows of usage, exposures and facts → one statement for any number of each. Each may come twice, and an older state of a
// row after a newer one: a row is opened once and settled once.
import type { SqlDatabase, SqlStatement } from '../database/migrate.ts'
import type { exposures, usage } from '../database/records.ts'

export type UsageRow = { -readonly [K in keyof typeof usage.$inferSelect]: (typeof usage.$inferSelect)[K] }
export type ExposureRow = typeof exposures.$inferSelect

export interface FactsRow {
  readonly digest: string
  readonly text: string
  readonly createdAt: number
}

/** D1 takes 2 MB in a parameter; a row is some 700 bytes, and a mix's some kilobytes. */
const MAX_ROWS = 256

const DECIDED = [
  ['request_id', 'requestId'],
  ['tenant_id', 'tenantId'],
  ['key_id', 'keyId'],
  ['user_id', 'userId'],
  ['model', 'model'],
  ['base_digest', 'baseDigest'],
  ['adapter_id', 'adapterId'],
  ['adapter_digest', 'adapterDigest'],
  ['grant_id', 'grantId'],
  ['experiment_id', 'experimentId'],
  ['bucket_version', 'bucketVersion'],
  ['arm_id', 'armId'],
  ['assigned_arm_id', 'assignedArmId'],
  ['facts_digest', 'factsDigest'],
  ['receipt', 'receipt'],
  ['created_at', 'createdAt'],
  ['prompt_price', 'promptPrice'],
  ['completion_price', 'completionPrice'],
] as const satisfies readonly (readonly [string, keyof UsageRow])[]
/** What is known once a request has ended. */
const SETTLED = [
  ['status', 'status'],
  ['prompt_tokens', 'promptTokens'],
  ['completion_tokens', 'completionTokens'],
  ['ttft_ms', 'ttftMs'],
  ['settled_at', 'settledAt'],
  ['charge', 'charge'],
  ['cost', 'cost'],
] as const satisfies readonly (readonly [string, keyof UsageRow])[]
const COLUMNS = [['mix', 'mix'], ...DECIDED, ...SETTLED] as const

const names = (columns: readonly (readonly [string, string])[]) => columns.map(([name]) => `"${name}"`).join(', ')
const values = (count: number) => Array.from({ length: count }, (_, at) => `item.value ->> ${at}`).join(', ')

const WRITE = `insert into "usage" (${names(COLUMNS)}) select ${values(COLUMNS.length)} from json_each(?1) as item where true on conflict ("request_id") do update set ${SETTLED.map(([name]) => `"${name}" = excluded."${name}"`).join(', ')}, "held_until" = null where "usage"."status" = 'open' and excluded."status" <> 'open'`

const EXPOSURE = [
  ['tenant_id', 'tenantId'],
  ['experiment_id', 'experimentId'],
  ['bucket_version', 'bucketVersion'],
  ['subject', 'subject'],
  ['assigned_arm_id', 'assignedArmId'],
  ['served_arm_id', 'servedArmId'],
  ['analysed', 'analysed'],
  ['request_id', 'requestId'],
  ['created_at', 'createdAt'],
] as const satisfies readonly (readonly [string, keyof ExposureRow])[]

/** One way only: a subject who once got another arm stays out of the analysis. */
const EXPOSE = `insert into "exposures" (${names(EXPOSURE)}) select ${values(EXPOSURE.length)} from json_each(?1) as item where true on conflict ("tenant_id", "experiment_id", "bucket_version", "subject") do update set "analysed" = 0 where excluded."analysed" = 0`

const KEEP = `insert into "facts" ("digest", "text", "created_at") select ${values(3)} from json_each(?1) as item where true on conflict do nothing`

/** Each is a list of grants. */
const MAX_FACTS = 8

function statement(db: SqlDatabase, sql: string, rows: readonly unknown[], most = MAX_ROWS): SqlStatement[] {
  const parts = Math.ceil(rows.length / most)
  return Array.from({ length: parts }, (_, part) =>
    db.prepare(sql).bind(JSON.stringify(rows.slice(part * most, (part + 1) * most))),
  )
}

const usageCells = (row: UsageRow) => [
  row.mix === null ? null : JSON.stringify(row.mix),
  ...DECIDED.map(([, field]) => row[field]),
  ...SETTLED.map(([, field]) => row[field]),
]

export const writeUsage = (db: SqlDatabase, rows: readonly UsageRow[]) => statement(db, WRITE, rows.map(usageCells))

export const writeExposures = (db: SqlDatabase, rows: readonly ExposureRow[]) =>
  statement(
    db,
    EXPOSE,
    rows.map((row) => EXPOSURE.map(([, field]) => (field === 'analysed' ? Number(row.analysed) : row[field]))),
  )

export const writeFacts = (db: SqlDatabase, rows: readonly FactsRow[]) =>
  statement(
    db,
    KEEP,
    rows.map(({ digest, text, createdAt }) => [digest, text, createdAt]),
    MAX_FACTS,
  )
