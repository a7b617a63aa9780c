// Starts the compiler service: its data folder, HTTP in front of it, and an orderly end.
import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { resolve } from 'node:path'
import { createAdaptorServer } from '@hono/node-server'
import { Board } from './board.ts'
import { JobsError, type Log } from './errors.ts'
import { createApp } from './http/app.ts'
import { requireToken } from './http/guard.ts'
import { defaultLimits, IDLE_MS, type Limits, MAX_CONNECTIONS } from './limits.ts'

export interface ServeOptions {
  /** Not shared with another process. */
  readonly dataDir: string
  readonly token: string | undefined
  /** It speaks plain HTTP: anything but loopback needs TLS in front of it. */
  readonly host?: string
  /** 0 takes any free one. */
  readonly port: number
  readonly limits?: Partial<Limits>
  /** One JSON line on stderr where absent. */
  readonly log?: Log
  /** Time for running requests to finish when it closes. */
  readonly drainMs?: number
}

export interface CompilerService {
  readonly url: string
  /** Takes nothing new, stops the running job, which the next start runs again. */
  close(): Promise<void>
}

const DRAIN_MS = 10_000

/** Throws `JobsError` (`config_invalid`, `data_invalid`, `port_in_use`). */
export async function serve(options: ServeOptions): Promise<CompilerService> {
  const { dataDir, host = '127.0.0.1', port, log = logToStderr, drainMs = DRAIN_MS } = options
  // Before anything is opened: without a usable token nothing starts.
  const token = requireToken(options.token)
  const limits = { ...defaultLimits, ...options.limits }
  const board = await Board.open({ folder: resolve(dataDir), limits, log, now: Date.now })
  const app = createApp({ board, token, log, now: Date.now })
  // Without TLS and HTTP/2 it is Node's plain server.
  const server = createAdaptorServer({ fetch: app.fetch }) as Server
  // An upload may take hours; one on which nothing moves may not.
  server.requestTimeout = 0
  server.timeout = IDLE_MS
  server.maxConnections = MAX_CONNECTIONS
  // A connection that becomes idle while we drain would be kept alive, and the end would wait for it.
  server.on('request', (_, response) => {
    response.once('close', () => board.closed && setImmediate(() => server.closeIdleConnections()))
  })
  try {
    await listen(server, port, host)
  } catch (error) {
    await board.close()
    throw error
  }
  const { port: bound } = server.address() as AddressInfo
  log({ event: 'listening', host, port: bound })

  async function shutDown(): Promise<void> {
    const closed = new Promise<void>((done) => server.close(() => done()))
    await board.close()
    server.closeIdleConnections()
    const late = setTimeout(() => server.closeAllConnections(), drainMs)
    await closed
    clearTimeout(late)
    log({ event: 'closed' })
  }
  let closing: Promise<void> | undefined
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${bound}`,
    close: () => (closing ??= shutDown()),
  }
}

function listen(server: Server, port: number, host: string): Promise<void> {
  return new Promise((done, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const message = `port ${port} of ${host} is in use; stop what holds it or choose another port`
      reject(error.code === 'EADDRINUSE' ? new JobsError('port_in_use', message) : error)
    })
    server.listen(port, host, done)
  })
}

function logToStderr(event: Readonly<Record<string, unknown>>): void {
  process.stderr.write(`${JSON.stringify({ time: new Date().toISOString(), ...event })}\n`)
}
