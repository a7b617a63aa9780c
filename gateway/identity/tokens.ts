// Tokens of OpenID Connect issuers: a signature by a key that the issuer publishes, for this audience, not expired.
import { createLocalJWKSet, decodeJwt, errors, type JSONWebKeySet, jwtVerify } from 'jose'
import * as z from 'zod'
import type { GatewayContext, World } from '../context.ts'
import type { issuers } from '../database/schema.ts'
import { databaseUnavailable, invalidApiKey, issuerUnavailable } from '../errors.ts'
import { errorFields, log } from '../log.ts'
import type { Caller } from '../policy/load-policy.ts'
import { readBounded } from '../read-body.ts'

/** Asymmetric ones only: with a shared secret, whoever checks a token could make one. */
export const ALGORITHMS = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
] as const

/** Longer ones carry more than a caller needs; headers end at some 8 kB anyway. */
const MAX_TOKEN_CHARS = 8_192
const TOKEN = /^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$/
/** Clocks differ; the field's usual allowance. */
const CLOCK_TOLERANCE_S = 30
/** Keys of an issuer are read again after this, or when a token names one that is not among them. */
const KEEP_KEYS_MS = 10 * 60_000
/** A token with an unknown key id costs one request to the issuer in this time, not one each. */
const COOLDOWN_MS = 30_000
const FETCH_MS = 5_000
const MAX_JWKS_BYTES = 256 * 1024
/** A principal's groups are matched one by one. */
const MAX_GROUPS = 256

const Jwks = z.object({ keys: z.array(z.looseObject({ kty: z.string() })).max(100) })
const Claims = z.object({ sub: z.string().min(1).max(255), exp: z.number() })

export type TokenReader = (c: GatewayContext, token: string) => Promise<Caller>

export const isToken = (text: string): boolean => text.length <= MAX_TOKEN_CHARS && TOKEN.test(text)

type IssuerRow = typeof issuers.$inferSelect

interface PublishedKeys {
  readonly keys: JSONWebKeySet
  readonly readAt: number
}

/** Every failure of a token is the one answer for bad credentials; only an issuer that cannot be reached is another. */
export function createTokenReader(world: World): TokenReader {
  const published = new Map<string, PublishedKeys>()

  async function readKeys(url: string, newerThan: number): Promise<PublishedKeys> {
    const kept = published.get(url)
    // A clock that was set back since must not keep them for longer.
    if (kept !== undefined && kept.readAt > newerThan && kept.readAt <= world.now()) return kept
    const readAt = world.now()
    try {
      const response = await world.fetch(url, {
        redirect: 'error',
        headers: { accept: 'application/json' },
        signal: AbortSignal.timeout(FETCH_MS),
      })
      if (response.status !== 200) throw new Error(`status ${response.status}`)
      const bytes = response.body && (await readBounded(response.body, MAX_JWKS_BYTES))
      if (bytes === null) throw new Error(`no body, or one of more than ${MAX_JWKS_BYTES} bytes`)
      const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
      const keys = Jwks.parse(JSON.parse(text)) as JSONWebKeySet
      const read = { keys, readAt }
      published.set(url, read)
      return read
    } catch (error) {
      log('issuer.keys', { url, ...errorFields(error) })
      // What was published ten minutes ago is no longer known to hold.
      throw issuerUnavailable()
    }
  }

  return async (c, token) => {
    const row = await readIssuer(c, token)
    const now = world.now()
    const verify = async ({ keys }: PublishedKeys) => {
      const { payload } = await jwtVerify(token, createLocalJWKSet(keys), {
        issuer: row.issuer,
        audience: row.audience,
        algorithms: [...row.algorithms],
        clockTolerance: CLOCK_TOLERANCE_S,
        requiredClaims: ['sub', 'exp'],
        currentDate: new Date(now),
      })
      return payload
    }
    try {
      const keys = await readKeys(row.jwksUrl, now - KEEP_KEYS_MS)
      const payload = await verify(keys).catch(async (error: unknown) => {
        if (!(error instanceof errors.JWKSNoMatchingKey) || now - keys.readAt < COOLDOWN_MS) throw error
        return verify(await readKeys(row.jwksUrl, keys.readAt))
      })
      const { sub } = Claims.parse(payload)
      return { kind: 'user', tenantId: row.tenantId, userId: sub, groups: readGroups(payload, row.groupsClaim) }
    } catch (error) {
      if (error instanceof errors.JOSEError || error instanceof z.ZodError) throw invalidApiKey()
      throw error
    }
  }
}

/** The issuer that the token claims; that it really is, its signature says. */
async function readIssuer(c: GatewayContext, token: string): Promise<IssuerRow> {
  let issuer: unknown
  try {
    issuer = decodeJwt(token).iss
  } catch {
    throw invalidApiKey()
  }
  if (typeof issuer !== 'string') throw invalidApiKey()
  let row: IssuerRow | undefined
  try {
    row = await c.get('policies').loadIssuer(c.get('db'), issuer)
  } catch (error) {
    log('database.unavailable', errorFields(error))
    throw databaseUnavailable()
  }
  if (row === undefined || row.disabled) throw invalidApiKey()
  return row
}

/** Sorted, each once. A claim that is missing or is no list of strings: no groups, so no allow of one. */
function readGroups(payload: Readonly<Record<string, unknown>>, claim: string | null): readonly string[] {
  if (claim === null) return []
  const parsed = z.array(z.string().max(128)).max(MAX_GROUPS).safeParse(payload[claim])
  // A deny of a group must not be lost with a claim that cannot be read.
  if (!parsed.success && payload[claim] !== undefined) throw invalidApiKey()
  return parsed.success ? [...new Set(parsed.data)].sort() : []
}
