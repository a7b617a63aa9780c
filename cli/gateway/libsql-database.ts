// A D1Database over libSQL, as far as drizzle's D1 driver and the gateway use one: the gateway has one dialect of SQL and
// one driver, wherever it runs.
import { createClient, type InStatement, type InValue, type ResultSet } from '@libsql/client'
import type { AnyD1Database } from 'drizzle-orm/d1'
import type { SqlDatabase } from '../../gateway/database/migrate.ts'
import { type Bound, type Durability, type Executor, openFile, type Rows } from './libsql-file.ts'

type Row = Record<string, unknown>

interface Result {
  readonly success: true
  readonly results: Row[]
  readonly meta: { readonly changes: number; readonly last_row_id: number }
}

class Statement implements Bound {
  readonly #executor: Executor
  readonly sql: string
  readonly args: readonly unknown[]

  constructor(executor: Executor, sql: string, args: readonly unknown[] = []) {
    this.#executor = executor
    this.sql = sql
    this.args = args
  }

  bind(...values: unknown[]): Statement {
    return new Statement(this.#executor, this.sql, values)
  }

  async all(): Promise<Result> {
    return toResult(await this.#execute())
  }

  run(): Promise<Result> {
    return this.all()
  }

  async raw(): Promise<readonly (readonly unknown[])[]> {
    return (await this.#execute()).rows
  }

  async first(): Promise<Row | null> {
    return (await this.all()).results[0] ?? null
  }

  async #execute(): Promise<Rows> {
    const [rows] = await this.#executor.execute([toBound(this)])
    if (rows === undefined) throw new Error('a statement without a result')
    return rows
  }
}

export interface LibsqlDatabase {
  /** What the gateway takes for its binding `DB`. */
  readonly db: AnyD1Database & SqlDatabase
  close(): void
}

/**
 * `url`: `file:…` for a file on this machine, `libsql:`, `http:` or `https:` for a server, which `authToken` opens.
 * Throws libSQL's own error where the database cannot be opened or does not answer.
 */
export async function openLibsql(
  url: string,
  authToken?: string,
  durability: Durability = 'power',
): Promise<LibsqlDatabase> {
  const executor = url.startsWith('file:')
    ? await openFile(url.slice('file:'.length), durability)
    : openServer(url, authToken)
  const database = {
    prepare: (sql: string) => new Statement(executor, sql),
    // D1's batch is a transaction.
    batch: async (statements: readonly Statement[]) => (await executor.execute(statements.map(toBound))).map(toResult),
  }
  await database.prepare('SELECT 1').all()
  return { db: database as unknown as LibsqlDatabase['db'], close: () => executor.close() }
}

function openServer(url: string, authToken: string | undefined): Executor {
  const client = createClient({ url, ...(authToken === undefined ? {} : { authToken }) })
  const toStatement = ({ sql, args }: Bound): InStatement => ({ sql, args: args as InValue[] })
  return {
    async execute(unit) {
      const [only, ...others] = unit.map(toStatement)
      if (only !== undefined && others.length === 0) return [toRows(await client.execute(only))]
      // A write lock from the start is what makes it wait instead of failing half-way.
      return (await client.batch(unit.map(toStatement), 'write')).map(toRows)
    },
    close: () => client.close(),
  }
}

function toRows({ rows, columns, rowsAffected, lastInsertRowid }: ResultSet): Rows {
  return {
    columns,
    rows: rows.map((row) => columns.map((_, at) => row[at])),
    changes: rowsAffected,
    lastInsertRowid: Number(lastInsertRowid ?? 0),
  }
}

/** SQLite has neither booleans nor undefined. */
function toBound({ sql, args }: Bound): Bound {
  return { sql, args: args.map((arg) => (typeof arg === 'boolean' ? Number(arg) : (arg ?? null))) }
}

function toResult({ rows, columns, changes, lastInsertRowid }: Rows): Result {
  return {
    success: true,
    // Plain objects in the order of the columns: drizzle reads a batch by that order.
    results: rows.map((row) => Object.fromEntries(columns.map((column, at) => [column, row[at]]))),
    meta: { changes, last_row_id: lastInsertRowid },
  }
}
