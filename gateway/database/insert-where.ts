// A row that is inserted only where a condition holds at that moment, in the same statement.
import { getTableColumns, type InferInsertModel, type SQL, sql } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { SQLiteTable } from 'drizzle-orm/sqlite-core'

/** Columns that are left out are null. */
export function insertWhere<T extends SQLiteTable>(
  db: DrizzleD1Database,
  table: T,
  row: InferInsertModel<T>,
  condition: SQL,
) {
  const given = row as Readonly<Record<string, unknown>>
  // In the order in which drizzle names the columns of an insert from a select: that of the table.
  const values = Object.entries(getTableColumns(table)).map(([name, column]) => sql.param(given[name] ?? null, column))
  return db.insert(table).select(sql`select ${sql.join(values, sql`, `)} where ${condition}`)
}
