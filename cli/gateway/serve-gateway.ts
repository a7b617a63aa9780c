// The gateway on Node: the same app as in the Worker, over Node's HTTP server and libSQL.
import { createServer } from 'node:http'
import { getRequestListener } from '@hono/node-server'
import type { ExecutionContext } from 'hono'
import { createApp } from '../../gateway/app.ts'
import type { Bindings } from '../../gateway/config.ts'
import type { World } from '../../gateway/context.ts'
import { realWorld } from '../../gateway/real-world.ts'

export interface ServedGateway {
  readonly url: string
  /** Takes no more requests, ends those under way, and resolves once everything they owe the database is written. */
  close(): Promise<void>
}

export async function serveGateway(options: {
  readonly host: string
  readonly port: number
  readonly bindings: Bindings
  readonly world?: World
}): Promise<ServedGateway> {
  const app = createApp(options.world ?? realWorld)
  /** What Workers call waitUntil: work that outlives its response, such as the settling of a stream. */
  const pending = new Set<Promise<unknown>>()
  const context = {
    waitUntil(work: Promise<unknown>) {
      const settled = work.catch(() => {}).finally(() => pending.delete(settled))
      pending.add(settled)
    },
    passThroughOnException() {},
    props: {},
  } as unknown as ExecutionContext
  const server = createServer(
    getRequestListener((request) => app.fetch(request, options.bindings, context), { overrideGlobalObjects: false }),
  )
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(options.port, options.host, resolve)
  })
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : options.port
  return {
    url: `http://${options.host}:${port}`,
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeIdleConnections()
      const impatient = setTimeout(() => server.closeAllConnections(), DRAIN_MS)
      await closed
      clearTimeout(impatient)
      while (pending.size > 0) await Promise.all(pending)
    },
  }
}

/** An answer that streams for longer is cut off, and settled with what it had used. */
const DRAIN_MS = 10_000
