// Usage and cost of a span of time as CSV or JSON, page by page: what is in memory does not grow with what is exported.
import { and, asc, eq, gte, lt, type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { usage } from '../database/records.ts'

/** Rows in memory at a time. */
const PAGE_ROWS = 500

export const GROUPINGS = ['day', 'key', 'user', 'model', 'adapter'] as const
export type Grouping = (typeof GROUPINGS)[number]

export interface Span {
  readonly tenantId: string
  /** Milliseconds; the span is [from, to). */
  readonly from: number
  readonly to: number
}

type Cell = string | number | null
type ExportRow = Readonly<Record<string, Cell>>
/** From the last row of the page before; null: the first. Fewer rows than a page: the last. */
type ReadPage = (last: ExportRow | null) => Promise<readonly ExportRow[]>

const inSpan = ({ tenantId, from, to }: Span): SQL | undefined =>
  and(eq(usage.tenantId, tenantId), gte(usage.createdAt, from), lt(usage.createdAt, to))

export function readRows(db: DrizzleD1Database, span: Span): ReadPage {
  const { requestId, createdAt, settledAt, status, keyId, userId, model, baseDigest, adapterId, adapterDigest } = usage
  const { experimentId, armId, promptTokens, completionTokens, charge, cost, ttftMs, receipt } = usage
  const what = { requestId, createdAt, settledAt, status, keyId, userId, model, baseDigest, adapterId, adapterDigest }
  const columns = { ...what, experimentId, armId, promptTokens, completionTokens, charge, cost, ttftMs, receipt }
  return (last) => {
    // By time and then by id, so that no row is left out or comes twice where many are of one millisecond.
    const beyond = last && sql`(${createdAt}, ${requestId}) > (${last.createdAt}, ${last.requestId})`
    return db
      .select(columns)
      .from(usage)
      .where(and(inSpan(span), beyond ?? undefined))
      .orderBy(asc(createdAt), asc(requestId))
      .limit(PAGE_ROWS)
  }
}

const GROUP_OF: Readonly<Record<Grouping, SQL<string>>> = {
  day: sql<string>`date(${usage.createdAt} / 1000, 'unixepoch')`,
  key: sql<string>`coalesce(${usage.keyId}, '')`,
  user: sql<string>`coalesce(${usage.userId}, '')`,
  model: sql<string>`${usage.model}`,
  adapter: sql<string>`coalesce(${usage.adapterId}, '')`,
}

export function readGroups(db: DrizzleD1Database, span: Span, by: Grouping): ReadPage {
  const group = GROUP_OF[by]
  const count = (condition: SQL) => sql<number>`count(case when ${condition} then 1 end)`
  const columns = {
    [by]: group,
    requests: sql<number>`count(*)`,
    settled: count(sql`${usage.status} = 'settled'`),
    aborted: count(sql`${usage.status} = 'aborted'`),
    failed: count(sql`${usage.status} = 'failed'`),
    open: count(sql`${usage.status} = 'open'`),
    promptTokens: sql<number>`coalesce(sum(${usage.promptTokens}), 0)`,
    completionTokens: sql<number>`coalesce(sum(${usage.completionTokens}), 0)`,
    /** Requests that were charged by a bound, since the backend did not say. */
    bound: count(sql`${usage.charge} = 'bound'`),
    cost: sql<number>`coalesce(sum(${usage.cost}), 0)`,
    /** Requests without a price: their cost is in no sum. */
    unpriced: count(sql`${usage.promptPrice} is null`),
  }
  return (last) =>
    db
      .select(columns)
      .from(usage)
      .where(and(inSpan(span), last === null ? undefined : sql`${group} > ${last[by]}`))
      .groupBy(group)
      .orderBy(asc(group))
      .limit(PAGE_ROWS)
}

interface Format {
  readonly type: string
  /** In front of the first page, which may be empty. */
  readonly open: (rows: readonly ExportRow[]) => string
  readonly row: (row: ExportRow, isFirst: boolean) => string
  readonly close: string
}

/**
 * Spreadsheets run what begins like a formula, and names of models and users are others' words: such a text gets an
 * apostrophe in front. Every text is quoted, so that nothing in it ends its cell.
 */
function csvCell(cell: Cell): string {
  if (cell === null) return ''
  if (typeof cell === 'number') return String(cell)
  const inert = /^[=+\-@\t\r\n]/.test(cell) ? `'${cell}` : cell
  return `"${inert.replaceAll('"', '""')}"`
}

export const FORMATS: Readonly<Record<'csv' | 'json', Format>> = {
  csv: {
    type: 'text/csv; charset=utf-8; header=present',
    open: ([first]) => (first === undefined ? '' : `${Object.keys(first).join(',')}\r\n`),
    row: (row) => `${Object.values(row).map(csvCell).join(',')}\r\n`,
    close: '',
  },
  json: {
    type: 'application/json',
    open: () => '{"data":[',
    row: (row, isFirst) => `${isFirst ? '' : ','}\n${JSON.stringify(row)}`,
    close: '\n]}\n',
  },
}

/** The first page is read before the answer begins, so that a database that fails then is an error and no torn file. */
export async function exportStream(readPage: ReadPage, format: Format): Promise<ReadableStream<Uint8Array>> {
  const encoder = new TextEncoder()
  let rows = await readPage(null)
  let isFirst = true
  return new ReadableStream<Uint8Array>({
    // One page for each time that the reader has room.
    async pull(sink) {
      const head = isFirst ? format.open(rows) : ''
      const body = rows.map((row, at) => format.row(row, isFirst && at === 0)).join('')
      isFirst = false
      const isLast = rows.length < PAGE_ROWS
      sink.enqueue(encoder.encode(`${head}${body}${isLast ? format.close : ''}`))
      if (isLast) return sink.close()
      rows = await readPage(rows.at(-1) ?? null)
    },
  })
}
