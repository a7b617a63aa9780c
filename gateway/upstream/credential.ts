// The credential of a backend: named in the registry, held by the host, and never shown.
import { upstreamError } from '../errors.ts'
import { log } from '../log.ts'

/** A prefix of their own, so that no row of the registry can have another secret of the gateway sent to an address. */
export const SECRET_NAME = /^UPSTREAM_[A-Z0-9_]{1,56}$/
/** What may stand in a header; no key of a provider comes near to the length. */
const SECRET = /^[\x21-\x7e]{1,4096}$/

/** Bindings of the host, of which only those by such a name are looked at. */
export type Secrets = Readonly<Record<string, unknown>>

/** Undefined: the backend asks for none. Throws where it does and there is none: it is not called without. */
export function readCredential(secrets: Secrets, name: string | null): string | undefined {
  if (name === null) return undefined
  const value = SECRET_NAME.test(name) ? secrets[name] : undefined
  if (typeof value === 'string' && SECRET.test(value)) return value
  log('upstream.secret', { binding: name })
  throw upstreamError(503, 'no_backend')
}
