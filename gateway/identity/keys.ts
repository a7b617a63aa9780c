// Keys at rest: minted, stored as HMAC-SHA-256 under a versioned pepper, verified in constant time.
// Web Crypto only: the Worker and the command line that bootstraps it share this file.
import { toHex } from '../digest.ts'
import { generateKey } from './key-format.ts'

/** Shorter peppers could be guessed from one stolen database and one known key. */
const MIN_PEPPER_BYTES = 32
const MAX_PEPPERS = 8

export interface Peppers {
  readonly current: string
  readonly keys: ReadonlyMap<string, Uint8Array<ArrayBuffer>>
}

/** What the database keeps of a key. The key itself is shown once and never stored. */
export interface StoredKey {
  readonly id: string
  readonly mac: string
  readonly pepperVersion: string
  readonly last4: string
}

/** The PEPPERS binding: `{"current": "1", "keys": {"1": "<base64, at least 32 bytes>"}}`. Null where unusable. */
export function parsePeppers(text: string): Peppers | null {
  try {
    const parsed: unknown = JSON.parse(text)
    if (typeof parsed !== 'object' || parsed === null || !('current' in parsed) || !('keys' in parsed)) return null
    const { current, keys } = parsed
    if (typeof current !== 'string' || typeof keys !== 'object' || keys === null) return null
    const entries = Object.entries(keys)
    if (entries.length > MAX_PEPPERS) return null
    const decoded = new Map<string, Uint8Array<ArrayBuffer>>()
    for (const [version, value] of entries) {
      if (typeof value !== 'string') return null
      const bytes = Uint8Array.from(atob(value), (char) => char.charCodeAt(0))
      if (bytes.length < MIN_PEPPER_BYTES) return null
      decoded.set(version, bytes)
    }
    return decoded.has(current) ? { current, keys: decoded } : null
  } catch {
    return null
  }
}

const encoder = new TextEncoder()
const importPepper = (pepper: Uint8Array<ArrayBuffer>) =>
  crypto.subtle.importKey('raw', pepper, { name: 'HMAC', hash: 'SHA-256' }, false, ['sign', 'verify'])

export async function mintKey(environment: string, peppers: Peppers): Promise<StoredKey & { readonly key: string }> {
  const pepper = peppers.keys.get(peppers.current)
  if (pepper === undefined) throw new TypeError('the current pepper is missing')
  const { id, key } = generateKey(environment)
  const mac = await crypto.subtle.sign('HMAC', await importPepper(pepper), encoder.encode(key))
  return { id, key, mac: toHex(mac), pepperVersion: peppers.current, last4: key.slice(-4) }
}

/** Compared against where no key is stored, so that an unknown id costs what a wrong secret costs. */
const ABSENT_MAC = '00'.repeat(32)

/** True only for the key that was stored. `crypto.subtle.verify` compares in constant time. */
export async function verifyKey(key: string, stored: StoredKey | undefined, peppers: Peppers): Promise<boolean> {
  const pepper = peppers.keys.get(stored?.pepperVersion ?? peppers.current)
  if (pepper === undefined) return false
  const mac = Uint8Array.from((stored?.mac ?? ABSENT_MAC).match(/../g) ?? [], (byte) => Number.parseInt(byte, 16))
  const equal = await crypto.subtle.verify('HMAC', await importPepper(pepper), mac, encoder.encode(key))
  return equal && stored !== undefined
}
