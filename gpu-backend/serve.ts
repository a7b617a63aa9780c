// Starts the backend: the engine in a worker thread, HTTP in front of it, and an orderly end.

import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createAdaptorServer } from '@hono/node-server'
import { openFolder } from '../runtime/disk.ts'
import { Exporter, type OtlpConfig } from '../telemetry/otlp.ts'
import { startEngine } from './engine/client.ts'
import { defaultEngineConfig, type EngineConfig } from './engine/request.ts'
import { BackendError } from './errors.ts'
import { createApp } from './http/app.ts'
import { capabilityVerifier } from './http/capability.ts'
import type { Log } from './http/env.ts'
import { createMetrics } from './http/metrics.ts'
import { type MetricsAccess, scrapeGuard } from './http/scrape.ts'
import { openText } from './text/tokenizer.ts'

export interface ServeOptions extends Partial<Omit<EngineConfig, 'artifact'>> {
  /** Folder of the artifact. */
  readonly artifact: string
  /** Shared with the gateway, at least 32 bytes. */
  readonly secret: string
  /** The backend is not meant to be reached but by the gateway. */
  readonly host?: string
  /** 0 takes any free one. */
  readonly port: number
  /** One JSON line on stderr where absent. */
  readonly log?: Log
  /** Time for running requests to finish when it closes. */
  readonly drainMs?: number
  /** Who may read `/metrics` without a capability; absent: nobody. */
  readonly metrics?: MetricsAccess
  /** Where traces go; absent: nowhere. */
  readonly otlp?: OtlpConfig | undefined
}

export interface Backend {
  readonly url: string
  readonly ready: {
    readonly base: string
    readonly slots: number
    readonly maxPositions: number
    readonly provider: string
  }
  /** Takes no new work, lets running requests finish for a while, aborts the rest. */
  close(): Promise<void>
}

const DRAIN_MS = 10_000

/** Throws `BackendError` (`config_invalid`, `artifact_unsuitable`, `port_in_use`). */
export async function serve(options: ServeOptions): Promise<Backend> {
  const {
    artifact,
    secret,
    host = '127.0.0.1',
    port,
    log = logToStderr,
    drainMs = DRAIN_MS,
    metrics: access,
    otlp,
    ...engineOptions
  } = options
  // Before anything is opened: without a usable secret nothing starts.
  capabilityVerifier(secret, '')
  const mayScrape = scrapeGuard(access)
  // First the worker: it verifies the artifact's files.
  const engine = await startEngine({ ...defaultEngineConfig, ...engineOptions, artifact }, log)
  const text = await openText(openFolder(artifact)).catch(async (error) => {
    await engine.close()
    throw error
  })
  let draining = false
  const { base, slots, maxPositions, provider } = engine.info
  const verify = capabilityVerifier(secret, base)
  const source = {
    base,
    get alive() {
      return engine.alive
    },
    get stats() {
      return engine.stats
    },
  }
  const metrics = createMetrics(source, Date.now)
  const onDropped = (spans: number): void => log({ event: 'telemetry.dropped', spans })
  const exporter = otlp && new Exporter({ ...otlp, fetch: (url, init) => fetch(url, init), now: Date.now, onDropped })
  const isDraining = (): boolean => draining
  const app = createApp({
    engine,
    text,
    verify,
    mayScrape,
    log,
    now: Date.now,
    metrics,
    draining: isDraining,
    exporter,
  })
  // Without TLS and HTTP/2 it is Node's plain server.
  const server = createAdaptorServer({ fetch: app.fetch }) as Server
  let answering = 0
  let onIdle: () => void = () => {}
  server.on('request', (_, response) => {
    answering += 1
    response.once('close', () => {
      answering -= 1
      if (answering === 0) onIdle()
    })
  })
  try {
    await listen(server, port, host)
  } catch (error) {
    await engine.close()
    throw error
  }
  const { port: bound } = server.address() as AddressInfo
  log({ event: 'listening', host, port: bound, base, slots, provider })

  /** It goes on listening, so that who comes is told to go elsewhere, until the last answer is out. */
  async function shutDown(): Promise<void> {
    draining = true
    let late: NodeJS.Timeout | undefined
    await new Promise<void>((resolve) => {
      onIdle = resolve
      late = setTimeout(resolve, drainMs)
      if (answering === 0) resolve()
    })
    clearTimeout(late)
    const closed = new Promise<void>((resolve) => server.close(() => resolve()))
    server.closeAllConnections()
    await closed
    await engine.close()
    await exporter?.flush()
    log({ event: 'closed' })
  }
  let closing: Promise<void> | undefined
  return {
    url: `http://${host.includes(':') ? `[${host}]` : host}:${bound}`,
    ready: { base, slots, maxPositions, provider },
    close: () => (closing ??= shutDown()),
  }
}

function listen(server: Server, port: number, host: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      reject(
        error.code === 'EADDRINUSE'
          ? new BackendError(
              'port_in_use',
              `port ${port} of ${host} is in use; stop what holds it or choose another port`,
            )
          : error,
      )
    })
    server.listen(port, host, resolve)
  })
}

function logToStderr(event: Readonly<Record<string, unknown>>): void {
  process.stderr.write(`${JSON.stringify({ time: new Date().toISOString(), ...event })}\n`)
}
