// Starts the backend: the engine in a worker thread, HTTP in front of it, and an orderly end.

import type { Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { createAdaptorServer } from '@hono/node-server'
import { openFolder } from '../runtime/disk.ts'
import { startEngine } from './engine/client.ts'
import { defaultEngineConfig, type EngineConfig } from './engine/request.ts'
import { BackendError } from './errors.ts'
import { createApp } from './http/app.ts'
import { capabilityVerifier } from './http/capability.ts'
import type { Log } from './http/env.ts'
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
    ...engineOptions
  } = options
  // Before anything is opened: without a usable secret nothing starts.
  capabilityVerifier(secret, '')
  // First the worker: it verifies the artifact's files.
  const engine = await startEngine({ ...defaultEngineConfig, ...engineOptions, artifact }, log)
  const text = await openText(openFolder(artifact)).catch(async (error) => {
    await engine.close()
    throw error
  })
  let draining = false
  const { base, slots, maxPositions, provider } = engine.info
  const verify = capabilityVerifier(secret, base)
  const app = createApp({ engine, text, verify, log, now: Date.now, draining: () => draining })
  // Without TLS and HTTP/2 it is Node's plain server.
  const server = createAdaptorServer({ fetch: app.fetch }) as Server
  // A connection that becomes idle while we drain would be kept alive, and the end would wait for it.
  server.on('request', (_, response) => {
    response.once('close', () => draining && setImmediate(() => server.closeIdleConnections()))
  })
  try {
    await listen(server, port, host)
  } catch (error) {
    await engine.close()
    throw error
  }
  const { port: bound } = server.address() as AddressInfo
  log({ event: 'listening', host, port: bound, base, slots, provider })

  async function shutDown(): Promise<void> {
    draining = true
    const closed = new Promise<void>((resolve) => server.close(() => resolve()))
    server.closeIdleConnections()
    const late = setTimeout(() => server.closeAllConnections(), drainMs)
    await closed
    clearTimeout(late)
    await engine.close()
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
