// Verifies the capability that the gateway minted for this one request. The gateway is not trusted alone.
import { jwtVerify } from 'jose'
import { z } from 'zod'
import {
  CAPABILITY_ALGORITHM,
  CAPABILITY_AUDIENCE,
  CAPABILITY_ISSUER,
  CAPABILITY_TTL_S,
  type Capability,
  CapabilityClaims,
} from '../contract.ts'
import { BackendError } from '../errors.ts'

/** RFC 7518, 3.2: a key for HS256 is at least as long as its hash. */
const MIN_SECRET_BYTES = 32
/** The clocks of two machines. */
const CLOCK_TOLERANCE_S = 5
/** A capability is a few hundred bytes. */
const MAX_TOKEN_CHARS = 8_192

const Registered = z.object({ iat: z.int(), exp: z.int(), jti: z.uuid() })

export type VerifyCapability = (authorization: string | undefined) => Promise<Capability>

/** Throws `config_invalid` for a secret that is missing or short: without one nothing is served. */
export function capabilityVerifier(secret: string, base: string, now: () => Date = () => new Date()): VerifyCapability {
  const key = new TextEncoder().encode(secret)
  if (key.length < MIN_SECRET_BYTES) {
    throw new BackendError(
      'config_invalid',
      `the capability secret has ${key.length} bytes; set one of at least ${MIN_SECRET_BYTES}, shared with the gateway`,
    )
  }
  return async (authorization) => {
    const [, token] = /^Bearer ([\w.-]+)$/i.exec(authorization ?? '') ?? []
    if (token === undefined || token.length > MAX_TOKEN_CHARS) throw invalid()
    const payload = await jwtVerify(token, key, {
      algorithms: [CAPABILITY_ALGORITHM],
      issuer: CAPABILITY_ISSUER,
      audience: CAPABILITY_AUDIENCE,
      clockTolerance: CLOCK_TOLERANCE_S,
      // Also refuses an `iat` in the future.
      maxTokenAge: CAPABILITY_TTL_S,
      currentDate: now(),
    }).then(
      (verified) => verified.payload,
      () => {
        throw invalid()
      },
    )
    const registered = Registered.safeParse(payload)
    const claims = CapabilityClaims.safeParse(payload)
    if (!registered.success || !claims.success || claims.data.base !== base) throw invalid()
    const { iat, exp } = registered.data
    if (exp - iat > CAPABILITY_TTL_S || exp <= iat) throw invalid()
    return claims.data
  }
}

/** One sentence for every cause: who forges learns nothing. */
function invalid(): BackendError {
  return new BackendError('capability_invalid', 'capability missing, expired or not valid')
}
