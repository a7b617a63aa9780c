// The bindings, checked before anything else: a gateway without its secrets answers nothing.
import { ENVIRONMENT } from './key-format.ts'
import { type Peppers, parsePeppers } from './keys.ts'

export interface Bindings {
  readonly DB: D1Database
  /** `{"current": "1", "keys": {"1": "<base64, at least 32 bytes>"}}` */
  readonly PEPPERS: string
  /** Shared with the backends; at least 32 characters. */
  readonly CAPABILITY_SECRET: string
  /** Part of every key: a key of one environment is not a key in another. */
  readonly ENVIRONMENT: string
}

export interface Config {
  readonly db: D1Database
  readonly peppers: Peppers
  readonly capabilitySecret: string
  readonly environment: string
}

/** HS256 wants a key as long as its hash. */
const MIN_CAPABILITY_SECRET_CHARS = 32

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
  if (problems.length > 0 || !db || !peppers || !capabilitySecret || !environment) return problems
  return { db, peppers, capabilitySecret, environment }
}
