// The gateway on Node: the same app as in the Worker, over Node's HTTP server, pooled connections and libSQL.
import { createApp } from '../../gateway/app.ts'
import type { Bindings } from '../../gateway/config.ts'
import { realWorld } from '../../gateway/real-world.ts'
import { batchLines } from './batch-lines.ts'
import { createPooledFetch } from './pooled-fetch.ts'
import { type Served, serveApp } from './serve-app.ts'

export async function serveGateway(options: {
  readonly host: string
  readonly port: number
  readonly bindings: Bindings
}): Promise<Served> {
  batchLines()
  const pool = createPooledFetch()
  const app = createApp({ ...realWorld, fetch: pool.fetch })
  const served = await serveApp((request, context) => app.fetch(request, options.bindings, context), options)
  return {
    url: served.url,
    async close() {
      await served.close()
      await pool.close()
    },
  }
}
