// The gateway on Node: the same app as in the Worker, over Node's HTTP server, pooled connections and libSQL.
import { hash } from 'node:crypto'
import { createApp } from '../../gateway/app.ts'
import type { Bindings } from '../../gateway/config.ts'
import { useHash } from '../../gateway/digest.ts'
import { realWorld } from '../../gateway/real-world.ts'
import type { Keeping } from '../../gateway/usage/ledger.ts'
import { batchLines } from './batch-lines.ts'
import type { SpanCounter } from './count-spans.ts'
import { createPooledFetch } from './pooled-fetch.ts'
import { type Served, serveApp } from './serve-app.ts'
import { timeDatabase } from './time-database.ts'

export async function serveGateway(options: {
  readonly host: string
  readonly port: number
  readonly bindings: Bindings
  readonly counter?: SpanCounter | undefined
  /** How soon usage is in the database: see docs/gateway-cost.md. */
  readonly keeping: Keeping
}): Promise<Served> {
  batchLines()
  useHash((text) => hash('sha256', text, 'hex'))
  const pool = createPooledFetch()
  const { counter, keeping } = options
  const world = { ...realWorld, fetch: pool.fetch, keeping, onSpans: counter?.onSpans }
  counter?.watch(world)
  const app = createApp(world)
  const { DB } = options.bindings
  const bindings = { ...options.bindings, DB: counter === undefined ? DB : timeDatabase(DB, counter.onQuery) }
  const served = await serveApp((request, context) => app.fetch(request, bindings, context), options)
  return {
    url: served.url,
    async close() {
      await served.close()
      await pool.close()
    },
  }
}
