// The signed statement of what one request may run; the backend serves nothing without it.
import { hmac } from '@noble/hashes/hmac.js'
import { sha256 } from '@noble/hashes/sha2.js'
import {
  CAPABILITY_ALGORITHM,
  CAPABILITY_AUDIENCE,
  CAPABILITY_ISSUER,
  CAPABILITY_TTL_S,
  type Capability,
} from '../../gpu-backend/contract.ts'

const encoder = new TextEncoder()
const encode = (binary: string) => btoa(binary).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')
/** A byte a character, of what is UTF-8 then. */
const binaryOf = (bytes: Uint8Array) => String.fromCharCode(...bytes)
const encodeText = (text: string) => encode(/[^\0-\x7f]/.test(text) ? binaryOf(encoder.encode(text)) : text)
const HEADER = encodeText(JSON.stringify({ alg: CAPABILITY_ALGORITHM }))

/** HMAC states by secret: one a gateway. */
const started = new Map<string, ReturnType<typeof hmac.create>>()

function sign(text: string, secret: string): Uint8Array {
  let state = started.get(secret)
  if (state === undefined) {
    state = hmac.create(sha256, encoder.encode(secret))
    started.clear()
    started.set(secret, state)
  }
  return state.clone().update(encoder.encode(text)).digest()
}

/** A JWT (RFC 7515, compact), HS256. Signed here: through web crypto a signature this short takes ten times as long. */
export function mintCapability(claims: Capability, secret: string, now: number): string {
  const issuedAtS = Math.floor(now / 1000)
  const payload = {
    ...claims,
    iss: CAPABILITY_ISSUER,
    aud: CAPABILITY_AUDIENCE,
    iat: issuedAtS,
    exp: issuedAtS + CAPABILITY_TTL_S,
    jti: crypto.randomUUID(),
  }
  const signed = `${HEADER}.${encodeText(JSON.stringify(payload))}`
  return `${signed}.${encode(binaryOf(sign(signed, secret)))}`
}
