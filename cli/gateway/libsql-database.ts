// A D1Database over libSQL, as far as drizzle's D1 driver and the gateway use one: the gateway has one dialect of SQL and
// one driver, wherever it runs.
import { type Client, createClient, type InStatement, type InValue, type ResultSet } from '@libsql/client'
import type { AnyD1Database } from 'drizzle-orm/d1'
import type { SqlDatabase } from '../../gateway/database/migrate.ts'

type Row = Record<string, unknown>

interface Result {
  readonly success: true
  readonly results: Row[]
  readonly meta: { readonly changes: number; readonly last_row_id: number }
}

/** Milliseconds that a statement waits for another process that writes to the same file. */
const BUSY_TIMEOUT_MS = 5_000

class Statement {
  readonly #client: Client
  readonly sql: string
  readonly args: readonly InValue[]

  constructor(client: Client, sql: string, args: readonly InValue[] = []) {
    this.#client = client
    this.sql = sql
    this.args = args
  }

  bind(...values: unknown[]): Statement {
    return new Statement(this.#client, this.sql, values as InValue[])
  }

  async all(): Promise<Result> {
    return toResult(await this.#execute())
  }

  run(): Promise<Result> {
    return this.all()
  }

  async raw(): Promise<unknown[][]> {
    const { rows, columns } = await this.#execute()
    return rows.map((row) => columns.map((_, at) => row[at]))
  }

  async first(): Promise<Row | null> {
    return (await this.all()).results[0] ?? null
  }

  #execute(): Promise<ResultSet> {
    return this.#client.execute(toStatement(this))
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
export async function openLibsql(url: string, authToken?: string): Promise<LibsqlDatabase> {
  const isFile = url.startsWith('file:')
  // One connection to a file: its pragmas then hold for every statement, and libSQL's calls on a file do not overlap.
  const client = createClient({
    url,
    ...(authToken === undefined ? {} : { authToken }),
    ...(isFile ? { concurrency: 1, timeout: BUSY_TIMEOUT_MS } : {}),
  })
  // As in D1. `synchronous = FULL`: a revocation that was answered is on the disk, whatever happens to the power.
  if (isFile) {
    for (const pragma of ['foreign_keys = ON', 'journal_mode = WAL', 'synchronous = FULL']) {
      await client.execute(`PRAGMA ${pragma}`)
    }
  }
  await client.execute('SELECT 1')
  const database = {
    prepare: (sql: string) => new Statement(client, sql),
    // D1's batch is a transaction; a write lock from the start is what makes it wait instead of failing half-way.
    batch: async (statements: readonly Statement[]) =>
      (await client.batch(statements.map(toStatement), 'write')).map(toResult),
  }
  return { db: database as unknown as LibsqlDatabase['db'], close: () => client.close() }
}

function toStatement({ sql, args }: Statement): InStatement {
  return { sql, args: [...args] }
}

function toResult({ rows, columns, rowsAffected, lastInsertRowid }: ResultSet): Result {
  return {
    success: true,
    // Plain objects in the order of the columns: drizzle reads a batch by that order.
    results: rows.map((row) => Object.fromEntries(columns.map((column, at) => [column, row[at]]))),
    meta: { changes: rowsAffected, last_row_id: Number(lastInsertRowid ?? 0) },
  }
}
