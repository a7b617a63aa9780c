// Who may read the metrics: nobody without a capability, who holds the token, or everybody.
import { createHash, timingSafeEqual } from 'node:crypto'
import { BackendError } from '../errors.ts'

/** True for an `authorization` header that lets its bearer read the metrics. */
export type MayScrape = (authorization: string | undefined) => boolean

/** A bearer token for the scraper's configuration; `'public'` for a scraper that has none, on a network of one's own. */
export type MetricsAccess = 'public' | { readonly token: string } | undefined

const MIN_TOKEN_CHARS = 32

/** Throws `config_invalid`. */
export function scrapeGuard(access: MetricsAccess): MayScrape {
  if (access === undefined) return () => false
  if (access === 'public') return () => true
  const { token } = access
  if (token.length < MIN_TOKEN_CHARS) {
    const found = `the metrics token has ${token.length} characters`
    throw new BackendError('config_invalid', `${found}; set one of at least ${MIN_TOKEN_CHARS}`)
  }
  const expected = digestOf(`Bearer ${token}`)
  return (authorization) => timingSafeEqual(digestOf(authorization ?? ''), expected)
}

/** Of one length, whatever was sent. */
function digestOf(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
