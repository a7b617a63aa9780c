// A D1Database that tells how long each statement and each batch of another took.
import type { AnyD1Database } from 'drizzle-orm/d1'

type OnQuery = (kind: 'read' | 'write', seconds: number, failed: boolean) => void

interface Statement {
  bind(...values: unknown[]): Statement
  all(): Promise<unknown>
  run(): Promise<unknown>
  raw(): Promise<unknown>
  first(): Promise<unknown>
}

interface Database {
  prepare(sql: string): Statement
  batch(statements: readonly unknown[]): Promise<unknown>
}

const WRITES = /^\s*(insert|update|delete|replace|create|drop|alter|with[\s\S]*\b(insert|update|delete)\b)/i

class TimedStatement {
  readonly inner: Statement
  readonly kind: 'read' | 'write'
  readonly #onQuery: OnQuery

  constructor(inner: Statement, kind: 'read' | 'write', onQuery: OnQuery) {
    this.inner = inner
    this.kind = kind
    this.#onQuery = onQuery
  }

  bind(...values: unknown[]): TimedStatement {
    return new TimedStatement(this.inner.bind(...values), this.kind, this.#onQuery)
  }

  all = () => timed(this.#onQuery, this.kind, () => this.inner.all())
  run = () => timed(this.#onQuery, this.kind, () => this.inner.run())
  raw = () => timed(this.#onQuery, this.kind, () => this.inner.raw())
  first = () => timed(this.#onQuery, this.kind, () => this.inner.first())
}

async function timed<T>(onQuery: OnQuery, kind: 'read' | 'write', act: () => Promise<T>): Promise<T> {
  const from = performance.now()
  let failed = true
  try {
    const result = await act()
    failed = false
    return result
  } finally {
    onQuery(kind, (performance.now() - from) / 1000, failed)
  }
}

export function timeDatabase<D extends AnyD1Database>(database: D, onQuery: OnQuery): D {
  const inner = database as unknown as Database
  const timing = {
    prepare: (sql: string) => new TimedStatement(inner.prepare(sql), WRITES.test(sql) ? 'write' : 'read', onQuery),
    batch(statements: readonly TimedStatement[]) {
      const kind = statements.some((statement) => statement.kind === 'write') ? 'write' : 'read'
      return timed(onQuery, kind, () => inner.batch(statements.map((statement) => statement.inner)))
    },
  }
  return timing as unknown as D
}
