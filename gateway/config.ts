// The bindings, checked before anything else: a gateway without its secrets answers nothing.
import type { AnyD1Database } from 'drizzle-orm/d1'
import type { OtlpConfig } from '../telemetry/otlp.ts'
import { type OtlpVariables, readOtlp } from '../telemetry/read-otlp.ts'
import { ENVIRONMENT } from './identity/key-format.ts'
import { type Peppers, parsePeppers } from './identity/keys.ts'
import type { QueueBinding } from './usage/queue-rows.ts'

/** Of Cloudflare; as far as it is used. */
export interface RateLimitBinding {
  limit(options: { readonly key: string }): Promise<{ readonly success: boolean }>
}

export interface Bindings extends OtlpVariables {
  readonly DB: AnyD1Database
  /** `{"current": "1", "keys": {"1": "<base64, at least 32 bytes>"}}` */
  readonly PEPPERS: string
  /** Shared with the backends; at least 32 characters. */
  readonly CAPABILITY_SECRET: string
  /** Part of every key: a key of one environment is not a key in another. */
  readonly ENVIRONMENT: string
  /** Origin of the compiler service, and its token. Both or none: without them nothing is compiled. */
  readonly COMPILER_URL: string
  readonly COMPILER_TOKEN: string
  /** Of Cloudflare, and optional. */
  readonly FLOOD_BY_ADDRESS: RateLimitBinding
  readonly FLOOD_BY_KEY: RateLimitBinding
  /** Of Cloudflare, and optional: takes rows of usage that the database does not. */
  readonly USAGE_QUEUE: QueueBinding
}

export interface Config {
  readonly db: AnyD1Database
  readonly peppers: Peppers
  readonly capabilitySecret: string
  readonly environment: string
  readonly compiler: { readonly url: string; readonly token: string } | undefined
  /** Where traces go; undefined: nowhere. */
  readonly otlp: OtlpConfig | undefined
}

/** HS256 wants a key as long as its hash. */
const MIN_CAPABILITY_SECRET_CHARS = 32
/** As the service itself asks for. */
const COMPILER_TOKEN = /^[\x21-\x7e]{32,512}$/

/** The configuration, or the names of the bindings that are missing or too short. */
export function readConfig(bindings: Partial<Bindings>): Config | readonly (keyof Bindings)[] {
  const db = bindings.DB
  const peppers = typeof bindings.PEPPERS === 'string' ? parsePeppers(bindings.PEPPERS) : null
  const capabilitySecret = bindings.CAPABILITY_SECRET
  const environment = bindings.ENVIRONMENT
  const problems: (keyof Bindings)[] = []
  if (db === undefined) problems.push('DB')
  if (peppers === null) problems.push('PEPPERS')
  if (typeof capabilitySecret !== 'string' || capabilitySecret.length < MIN_CAPABILITY_SECRET_CHARS) {
    problems.push('CAPABILITY_SECRET')
  }
  if (typeof environment !== 'string' || !ENVIRONMENT.test(environment)) problems.push('ENVIRONMENT')
  const compiler = readCompiler(bindings, problems)
  const read = readOtlp(bindings, 'sidepath-gateway')
  const otlp = read === undefined || 'url' in read ? read : undefined
  if (read !== undefined && !('url' in read)) problems.push(...read)
  if (problems.length > 0 || !db || !peppers || !capabilitySecret || !environment) return problems
  return { db, peppers, capabilitySecret, environment, compiler, otlp }
}

function readCompiler(
  { COMPILER_URL: url, COMPILER_TOKEN: token }: Partial<Bindings>,
  problems: (keyof Bindings)[],
): Config['compiler'] {
  if (url === undefined && token === undefined) return undefined
  const isOrigin = typeof url === 'string' && /^https?:/.test(url) && URL.parse(url)?.origin === url
  const isToken = typeof token === 'string' && COMPILER_TOKEN.test(token)
  if (!isOrigin) problems.push('COMPILER_URL')
  if (!isToken) problems.push('COMPILER_TOKEN')
  return isOrigin && isToken ? { url, token } : undefined
}
