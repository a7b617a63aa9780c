// The gateway on this machine: the same Worker that runs at Cloudflare, bundled by esbuild, in workerd, with a local D1.
import { createServer } from 'node:net'
import { join } from 'node:path'
import { Log, LogLevel, Miniflare } from 'miniflare'
import type { OtlpVariables } from '../../telemetry/read-otlp.ts'
import { UserError } from '../fail.ts'
import { bundleWorker } from './bundle-worker.ts'
import { endWithParent } from './end-with-parent.ts'
import type { Secrets } from './secrets.ts'

const ROOT = join(import.meta.dirname, '..', '..')
const HOST = '127.0.0.1'
/** Must match wrangler.toml; never newer than the installed workerd. */
const COMPATIBILITY_DATE = '2026-11-01'

export interface GatewayHost {
  readonly url: string
  readonly database: Awaited<ReturnType<Miniflare['getD1Database']>>
  close(): Promise<void>
}

export async function startGateway(options: {
  port: number
  secrets: Secrets
  persistTo: string
  /** OpenTelemetry's variables, as they are set. */
  otel?: Partial<OtlpVariables>
  log: (line: string) => void
}): Promise<GatewayHost> {
  const keepSignals = ownSignals()
  const miniflare = new Miniflare({
    host: HOST,
    port: options.port,
    log: new Log(LogLevel.NONE),
    logRequests: false,
    cf: false,
    enableDevRegistry: false,
    resourcePersistencePath: options.persistTo,
    handleStructuredLogs: ({ message }) => options.log(message),
    workers: [
      {
        config: {
          name: 'sidepath-gateway',
          compatibilityDate: COMPATIBILITY_DATE,
          compatibilityFlags: ['enable_request_signal'],
          env: {
            DB: { type: 'd1', id: 'sidepath' },
            PEPPERS: { type: 'text', value: JSON.stringify(options.secrets.peppers) },
            CAPABILITY_SECRET: { type: 'text', value: options.secrets.capabilitySecret },
            ENVIRONMENT: { type: 'text', value: 'local' },
            ...Object.fromEntries(
              Object.entries(options.otel ?? {}).map(([name, value]) => [name, { type: 'text', value }]),
            ),
          },
          manifest: {
            mainModule: 'worker.js',
            modules: { 'worker.js': { type: 'esm', contents: await bundleWorker(join(ROOT, 'gateway', 'worker.ts')) } },
          },
        },
      },
    ],
  })
  keepSignals()
  const guarded = endWithParent('workerd')
  await miniflare.ready
  const release = await guarded
  return {
    url: `http://${HOST}:${options.port}`,
    database: await miniflare.getD1Database('DB'),
    async close() {
      release()
      await miniflare.dispose()
    },
  }
}

/** Miniflare exits the process on a signal, before an orderly end; the result takes those listeners off again. */
function ownSignals(): () => void {
  const signals = ['SIGINT', 'SIGTERM'] as const
  const before = new Map(signals.map((signal) => [signal, new Set(process.listeners(signal))]))
  return () => {
    for (const [signal, ours] of before) {
      for (const listener of process.listeners(signal)) if (!ours.has(listener)) process.off(signal, listener)
    }
  }
}

/** Refuses a port that something else listens on, before any work is done. */
export async function requireFreePort(port: number, flag: string): Promise<void> {
  const server = createServer()
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(port, HOST, resolve)
    })
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EADDRINUSE')
      throw new UserError(`port ${port} is in use; stop what uses it or pass ${flag} with another.`)
    if (code === 'EACCES')
      throw new UserError(`port ${port} may not be opened by this user; pass ${flag} with one above 1023.`)
    throw error
  } finally {
    await new Promise((resolve) => server.close(resolve))
  }
}
