// An app of web standards over Node's HTTP server, and what it still owes when it is closed.
import { createServer } from 'node:http'
import { getRequestListener } from '@hono/node-server'
import type { ExecutionContext } from 'hono'
import { listen } from './listen.ts'

export interface Served {
  readonly url: string
  /** Takes no more requests, ends those under way, and resolves once all work that outlives a response is done. */
  close(): Promise<void>
}

/** An answer that streams for longer is cut off, and settled with what it had used. */
const DRAIN_MS = 10_000

export async function serveApp(
  answer: (request: Request, context: ExecutionContext) => Response | Promise<Response>,
  address: { readonly host: string; readonly port: number },
): Promise<Served> {
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
  // The global Request and Response become ones that make no stream until somebody asks for it: a third of all the time
  // of a request went into streams that nobody read.
  const server = createServer(getRequestListener((request) => answer(request, context)))
  const url = await listen(server, address)
  return {
    url,
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
