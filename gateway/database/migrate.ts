// Applies numbered SQL to a D1 database, with wrangler's bookkeeping, so that either may continue what the other began.

/** The part of a D1Database that is needed; Miniflare's proxy in Node has it too. */
export interface SqlDatabase {
  prepare(sql: string): SqlStatement
  batch(statements: SqlStatement[]): Promise<unknown>
}

export interface SqlStatement {
  bind(...values: unknown[]): SqlStatement
  all(): Promise<{ results: Record<string, unknown>[] }>
  run(): Promise<unknown>
}

export interface Migration {
  /** File name, for example `0000_registry.sql`: what is recorded, and the order. */
  readonly name: string
  readonly sql: string
}

const BREAKPOINT = '--> statement-breakpoint'
const BOOKKEEPING = `CREATE TABLE IF NOT EXISTS "d1_migrations"(
		id         INTEGER PRIMARY KEY AUTOINCREMENT,
		name       TEXT UNIQUE,
		applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL
);`

/** Names of the migrations that were applied now. Each is one batch: applied and recorded, or neither. */
export async function applyMigrations(db: SqlDatabase, migrations: readonly Migration[]): Promise<string[]> {
  await db.prepare(BOOKKEEPING).run()
  const { results } = await db.prepare('SELECT name FROM d1_migrations').all()
  const applied = new Set(results.map((row) => row.name))
  const pending = migrations.filter(({ name }) => !applied.has(name)).sort((a, b) => (a.name < b.name ? -1 : 1))
  for (const { name, sql } of pending) {
    const statements = sql.split(BREAKPOINT).map((statement) => statement.trim())
    await db.batch([
      ...statements.filter((statement) => statement !== '').map((statement) => db.prepare(statement)),
      db.prepare('INSERT INTO d1_migrations (name) VALUES (?)').bind(name),
    ])
  }
  return pending.map(({ name }) => name)
}
