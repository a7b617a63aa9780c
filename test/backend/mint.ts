// Mints capabilities as the gateway does, and as it never would.
import { randomUUID } from 'node:crypto'
import { SignJWT } from 'jose'
import { CAPABILITY_AUDIENCE, CAPABILITY_ISSUER, type Capability } from '../../gpu-backend/contract.ts'

export const SECRET = 'a secret of the tests, long enough for HS256'

export function claimsOf(base: string, given: Partial<Capability> = {}): Capability {
  return { act: 'infer', tenant: 'acme', base, adapter: null, model: 'house-model', maxTokens: 1_000, ...given }
}

export interface Registered {
  readonly alg?: string
  readonly secret?: string
  readonly iss?: string
  readonly aud?: string
  readonly iatS?: number
  readonly lifeS?: number
  readonly jti?: string
}

export function mint(claims: object, given: Registered = {}): Promise<string> {
  const iat = given.iatS ?? Math.floor(Date.now() / 1000)
  return new SignJWT({ ...claims, jti: given.jti ?? randomUUID() })
    .setProtectedHeader({ alg: given.alg ?? 'HS256' })
    .setIssuer(given.iss ?? CAPABILITY_ISSUER)
    .setAudience(given.aud ?? CAPABILITY_AUDIENCE)
    .setIssuedAt(iat)
    .setExpirationTime(iat + (given.lifeS ?? 60))
    .sign(new TextEncoder().encode(given.secret ?? SECRET))
}
