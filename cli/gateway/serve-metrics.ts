// `/metrics` on a port of its own, so that who may reach the gateway cannot reach it. On this machine alone it asks for nothing;
// anywhere else it asks for a token, and does not start without one.
import { createHash, timingSafeEqual } from 'node:crypto'
import { createServer } from 'node:http'
import { UserError } from '../fail.ts'
import type { SpanCounter } from './count-spans.ts'
import { listen } from './listen.ts'
import type { Served } from './serve-app.ts'

export const METRICS_TOKEN = 'SIDEPATH_METRICS_TOKEN'
const TOKEN = /^[\x21-\x7e]{32,512}$/
const LOOPBACK: ReadonlySet<string> = new Set(['127.0.0.1', '::1', 'localhost'])

export interface MetricsOptions {
  readonly host: string
  readonly port: number
  readonly token: string | undefined
}

/** Throws `UserError` where everybody could read them. */
export function checkMetrics({ host, token }: MetricsOptions): void {
  if (token !== undefined && !TOKEN.test(token)) {
    throw new UserError(`${METRICS_TOKEN} is not usable: 32 to 512 printable characters without spaces.`)
  }
  if (token === undefined && !LOOPBACK.has(host)) {
    throw new UserError(
      `--metrics-host "${host}" can be reached from elsewhere, and ${METRICS_TOKEN} is not set; set it, or use 127.0.0.1.`,
    )
  }
}

export async function serveMetrics(options: MetricsOptions, counter: SpanCounter): Promise<Served> {
  checkMetrics(options)
  const { token } = options
  const mayRead = (authorization: string | undefined): boolean =>
    token === undefined || timingSafeEqual(digestOf(authorization ?? ''), digestOf(`Bearer ${token}`))
  const server = createServer(async (request, response) => {
    const isAsked = request.method === 'GET' && request.url === '/metrics'
    if (!mayRead(request.headers.authorization)) response.writeHead(401, { 'www-authenticate': 'Bearer' }).end()
    else if (!isAsked) response.writeHead(404).end()
    else response.writeHead(200, { 'content-type': counter.contentType }).end(await counter.text())
  })
  const url = await listen(server, options)
  return {
    url,
    async close() {
      const closed = new Promise((resolve) => server.close(resolve))
      server.closeAllConnections()
      await closed
    },
  }
}

/** Of one length, whatever was sent. */
const digestOf = (text: string): Buffer => createHash('sha256').update(text).digest()
