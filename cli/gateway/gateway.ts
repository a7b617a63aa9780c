// `sidepath gateway`: the gateway on Node, for those who host it themselves. Its secrets come from the environment.
import { mkdir } from 'node:fs/promises'
import { dirname } from 'node:path'
import { type Bindings, readConfig } from '../../gateway/config.ts'
import { applyMigrations } from '../../gateway/database/migrate.ts'
import { bootstrapAdminKey } from '../../gateway/identity/bootstrap.ts'
import { parsePeppers } from '../../gateway/identity/keys.ts'
import { realWorld } from '../../gateway/real-world.ts'
import { SECRET_NAME } from '../../gateway/upstream/credential.ts'
import { UserError } from '../fail.ts'
import { shutdownOnSignal } from '../up/shutdown.ts'
import { createSpanCounter } from './count-spans.ts'
import { type LibsqlDatabase, openLibsql } from './libsql-database.ts'
import type { Durability } from './libsql-file.ts'
import { readMigrations } from './migrations.ts'
import { serveGateway } from './serve-gateway.ts'
import { checkMetrics, METRICS_TOKEN, type MetricsOptions, serveMetrics } from './serve-metrics.ts'

export interface GatewayOptions {
  readonly database: string
  readonly port: number
  readonly host: string
  readonly newAdminKey?: boolean
  readonly durability: Durability
  readonly metricsPort?: number
  readonly metricsHost: string
}

/** Not text: the database is opened, and Cloudflare's flood guards and queue have no counterpart here. */
type Absent = 'DB' | 'FLOOD_BY_ADDRESS' | 'FLOOD_BY_KEY' | 'USAGE_QUEUE'

/** The binding of the Worker → the variable here, and how to come by a value. */
const VARIABLES: Readonly<Record<Exclude<keyof Bindings, Absent>, readonly [variable: string, help: string]>> = {
  PEPPERS: [
    'SIDEPATH_PEPPERS',
    `{"current":"1","keys":{"1":"…"}} with 32 random bytes in base64 (openssl rand -base64 32)`,
  ],
  CAPABILITY_SECRET: ['SIDEPATH_CAPABILITY_SECRET', 'at least 32 characters, the same as the backends have'],
  ENVIRONMENT: ['SIDEPATH_ENVIRONMENT', 'a part of every key, 1 to 16 of a-z and 0-9, e.g. live'],
  COMPILER_URL: [
    'SIDEPATH_COMPILER_URL',
    'the origin of a `sidepath compiler`, set together with its token, or neither',
  ],
  COMPILER_TOKEN: ['SIDEPATH_COMPILER_TOKEN', 'the token of that `sidepath compiler`, or neither'],
  OTEL_EXPORTER_OTLP_ENDPOINT: ['OTEL_EXPORTER_OTLP_ENDPOINT', 'http:// or https://, without a password or a query'],
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: ['OTEL_EXPORTER_OTLP_TRACES_ENDPOINT', 'as OTEL_EXPORTER_OTLP_ENDPOINT'],
  OTEL_EXPORTER_OTLP_HEADERS: ['OTEL_EXPORTER_OTLP_HEADERS', 'name=value,name=value, values percent-encoded'],
  OTEL_SERVICE_NAME: ['OTEL_SERVICE_NAME', '1 to 255 printable ASCII characters'],
  OTEL_TRACES_SAMPLER_ARG: ['OTEL_TRACES_SAMPLER_ARG', 'the share of traces to export, 0 to 1'],
}
const DATABASE_TOKEN = 'SIDEPATH_DATABASE_TOKEN'
const REMOTE = /^(libsql|https?|wss?):\/\//

/** Resolves when it serves; the process then lives until SIGINT or SIGTERM. With `newAdminKey`, prints one and ends. */
export async function gatewayCommand(options: GatewayOptions): Promise<void> {
  const read = takeBindings()
  const metrics = takeMetrics(options)
  const shutdown = shutdownOnSignal()
  const database = await open(options)
  await shutdown.opened(async () => database.close())
  const bindings = { ...read, DB: database.db } as Partial<Bindings>
  requireConfigured(bindings)
  await applyMigrations(database.db, await readMigrations())
  if (options.newAdminKey) {
    const peppers = parsePeppers(bindings.PEPPERS)
    if (peppers === null) throw new Error('sidepath bug: the peppers were checked before')
    const key = await bootstrapAdminKey(database.db, { environment: bindings.ENVIRONMENT, peppers, now: Date.now() })
    process.stdout.write(`${key}\n`)
    await shutdown.now()
    return
  }
  const counter = metrics && createSpanCounter()
  const { host, port, durability } = options
  const keeping = { ...realWorld.keeping, beforeDispatch: durability !== 'batch' }
  const gateway = await serveGateway({ host, port, bindings, counter, keeping }).catch((error: unknown) => {
    throw describeListening(error, options)
  })
  await shutdown.opened(gateway.close)
  if (metrics !== undefined && counter !== undefined) {
    const served = await serveMetrics(metrics, counter).catch((error: unknown) => {
      throw describeListening(error, metrics)
    })
    await shutdown.opened(served.close)
  }
  process.stdout.write(`gateway on ${gateway.url}, database ${withoutSecrets(options.database)}\n`)
}

/** Reads the variables and takes them out of the environment: whatever this process starts has no use for them. */
function takeBindings(): Partial<Record<keyof typeof VARIABLES, string>> {
  const bindings: Partial<Record<keyof typeof VARIABLES, string>> = {}
  for (const [binding, [variable]] of Object.entries(VARIABLES)) {
    const value = process.env[variable]
    delete process.env[variable]
    if (value !== undefined) bindings[binding as keyof typeof VARIABLES] = value
  }
  // Credentials of backends that are not ours, each under the name that its row in the registry gives.
  for (const name of Object.keys(process.env).filter((one) => SECRET_NAME.test(one))) {
    Object.assign(bindings, { [name]: process.env[name] })
    delete process.env[name]
  }
  return bindings
}

const isVariable = (binding: keyof Bindings): binding is keyof typeof VARIABLES => Object.hasOwn(VARIABLES, binding)

/** Undefined: nothing is counted. Checked before anything is opened. */
function takeMetrics({ metricsPort: port, metricsHost: host }: GatewayOptions): MetricsOptions | undefined {
  const token = process.env[METRICS_TOKEN]
  delete process.env[METRICS_TOKEN]
  if (port === undefined) return undefined
  const metrics = { host, port, token }
  checkMetrics(metrics)
  return metrics
}

function requireConfigured(bindings: Partial<Bindings>): asserts bindings is Bindings {
  const config = readConfig(bindings)
  if ('db' in config) return
  const lines = config.map((binding) => {
    if (!isVariable(binding)) throw new Error('sidepath bug: the database was opened before')
    const [variable, help] = VARIABLES[binding]
    return `${variable} is ${bindings[binding] === undefined ? 'not set' : 'not usable'}: ${help}`
  })
  throw new UserError(`the gateway does not start without its secrets.\n  ${lines.join('\n  ')}`)
}

async function open({ database, durability }: GatewayOptions): Promise<LibsqlDatabase> {
  const token = process.env[DATABASE_TOKEN]
  delete process.env[DATABASE_TOKEN]
  const isRemote = REMOTE.test(database)
  const path = database.replace(/^file:/, '')
  if (!isRemote) await mkdir(dirname(path), { recursive: true })
  try {
    return await openLibsql(isRemote ? database : `file:${path}`, token, durability)
  } catch (error) {
    const help = isRemote
      ? `check the address, and the token in ${DATABASE_TOKEN}`
      : 'give a SQLite database that may be written, or a file that is not there yet'
    throw new UserError(`--database "${withoutSecrets(database)}" cannot be opened (${reasonOf(error)}); ${help}.`)
  }
}

/** An address may carry a password or a token, which no message repeats. */
function withoutSecrets(database: string): string {
  const url = REMOTE.test(database) ? URL.parse(database) : null
  return url === null ? database : `${url.protocol}//${url.host}`
}

/** A code where there is one: the words of a driver may hold what was sent. */
function reasonOf(error: unknown): string {
  const { code, cause } = error as { code?: unknown; cause?: { code?: unknown } }
  return String(code ?? cause?.code ?? (error instanceof Error ? error.constructor.name : 'unknown'))
}

function describeListening(error: unknown, { host, port }: Pick<GatewayOptions, 'host' | 'port'>): unknown {
  const { code } = error as NodeJS.ErrnoException
  if (code === 'EADDRINUSE')
    return new UserError(`port ${port} is in use; stop what uses it or pass --port with another.`)
  if (code === 'EACCES') return new UserError(`port ${port} may not be opened by this user; pass --port above 1023.`)
  if (code === 'EADDRNOTAVAIL' || code === 'ENOTFOUND') {
    return new UserError(`--host "${host}" is no address of this machine; use 127.0.0.1, or 0.0.0.0 for all.`)
  }
  return error
}
