// The gateway on Node: the same app as in the Worker, over Node's HTTP server, pooled connections and libSQL.
import { hash } from 'node:crypto'
import { createApp } from '../../gateway/app.ts'
import type { Bindings } from '../../gateway/config.ts'
import { useHash } from '../../gateway/digest.ts'
import { realWorld } from '../../gateway/real-world.ts'
import type { Keeping } from '../../gateway/usage/ledger.ts'
import { batchLines } from './batch-lines.ts'
import { createPooledFetch } from './pooled-fetch.ts'
import { type Served, serveApp } from './serve-app.ts'

export async function serveGateway(options: {
  readonly host: string
  readonly port: number
  readonly bindings: Bindings
  /** How soon usage is in the database: see docs/gateway-cost.md. */
  readonly keeping: Keeping
}): Promise<Served> {
  batchLines()
  useHash((text) => hash('sha256', text, 'hex'))
  const pool = createPooledFetch()
  const app = createApp({ ...realWorld, fetch: pool.fetch, keeping: options.keeping })
  const served = await serveApp((request, context) => app.fetch(request, options.bindings, context), options)
  return {
    url: served.url,
    async close() {
      await served.close()
      await pool.close()
    },
  }
}
