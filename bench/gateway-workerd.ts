// One process of bench/gateway: a Worker in workerd with a D1, hosted as `sidepath up` does; the gateway or the pass-through.
import { join } from 'node:path'
import { Log, LogLevel, Miniflare } from 'miniflare'
import { readMigrations } from '../cli/gateway/migrations.ts'
import { bundleWorker } from '../cli/up/bundle-worker.ts'
import { startGateway } from '../cli/up/gateway-host.ts'
import { applyMigrations } from '../gateway/database/migrate.ts'
import { bootstrapAdminKey } from '../gateway/identity/bootstrap.ts'
import { parsePeppers } from '../gateway/identity/keys.ts'

const { PORT, UPSTREAM, FOLDER, PEPPERS, CAPABILITY_SECRET } = process.env
if (UPSTREAM === undefined) {
  const peppers = JSON.parse(String(PEPPERS))
  const gateway = await startGateway({
    port: Number(PORT),
    secrets: { peppers, capabilitySecret: String(CAPABILITY_SECRET) },
    persistTo: String(FOLDER),
    // Read and thrown away, as a file would take it.
    log: () => {},
  })
  await applyMigrations(gateway.database, await readMigrations())
  const parsed = parsePeppers(String(PEPPERS))
  if (parsed === null) throw new Error('the peppers of the benchmark are not usable')
  const key = await bootstrapAdminKey(gateway.database, { environment: 'local', peppers: parsed, now: Date.now() })
  console.log(`ready ${key}`)
} else {
  const miniflare = new Miniflare({
    host: '127.0.0.1',
    port: Number(PORT),
    log: new Log(LogLevel.NONE),
    logRequests: false,
    cf: false,
    enableDevRegistry: false,
    workers: [
      {
        config: {
          name: 'pass-through',
          compatibilityDate: '2026-11-01',
          compatibilityFlags: ['enable_request_signal'],
          env: { UPSTREAM: { type: 'text', value: UPSTREAM } },
          manifest: {
            mainModule: 'worker.js',
            modules: {
              'worker.js': {
                type: 'esm',
                contents: await bundleWorker(join(import.meta.dirname, 'gateway-pass-through-worker.ts')),
              },
            },
          },
        },
      },
    ],
  })
  await miniflare.ready
  console.log('ready')
}
