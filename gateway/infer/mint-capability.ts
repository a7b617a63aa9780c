// The signed statement of what one request may run; the backend serves nothing without it.
import { SignJWT } from 'jose'
import {
  CAPABILITY_ALGORITHM,
  CAPABILITY_AUDIENCE,
  CAPABILITY_ISSUER,
  CAPABILITY_TTL_S,
  type Capability,
} from '../../gpu-backend/contract.ts'

export async function mintCapability(claims: Capability, secret: string, now: number): Promise<string> {
  const issuedAtS = Math.floor(now / 1000)
  return new SignJWT({ ...claims })
    .setProtectedHeader({ alg: CAPABILITY_ALGORITHM })
    .setIssuer(CAPABILITY_ISSUER)
    .setAudience(CAPABILITY_AUDIENCE)
    .setIssuedAt(issuedAtS)
    .setExpirationTime(issuedAtS + CAPABILITY_TTL_S)
    .setJti(crypto.randomUUID())
    .sign(new TextEncoder().encode(secret))
}
