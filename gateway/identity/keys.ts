// Keys at rest: minted, stored as HMAC-SHA-256 under a versioned pepper, verified in constant time.
// No platform: the Worker, Node and the command line that bootstraps them share this file.
import { hmac } from '@noble/hashes/hmac.js'
import { sha256 } from '@noble/hashes/sha2.js'
import { bytesToHex, hexToBytes, utf8ToBytes } from '@noble/hashes/utils.js'
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
  /** What the key was before its rotation, good until then (milliseconds). */
  readonly previous: { readonly mac: string; readonly pepperVersion: string; readonly until: number } | null
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

/** HMAC states by pepper: each pepper is hashed in once, not once a request. */
const started = new WeakMap<Uint8Array, ReturnType<typeof hmac.create>>()

/** HMAC-SHA-256 of the whole key, hex. Synchronous: web crypto's takes ten times as long for a text this short. */
function macOf(key: string, pepper: Uint8Array): Uint8Array {
  let state = started.get(pepper)
  if (state === undefined) {
    state = hmac.create(sha256, pepper)
    started.set(pepper, state)
  }
  return state.clone().update(utf8ToBytes(key)).digest()
}

export type MintedKey = Omit<StoredKey, 'previous'> & { readonly key: string }

/** With `id`, a new secret for a key that exists. */
export function mintKey(environment: string, peppers: Peppers, id?: string): MintedKey {
  const pepper = peppers.keys.get(peppers.current)
  if (pepper === undefined) throw new TypeError('the current pepper is missing')
  const generated = generateKey(environment, id)
  const { key } = generated
  return {
    id: generated.id,
    key,
    mac: bytesToHex(macOf(key, pepper)),
    pepperVersion: peppers.current,
    last4: key.slice(-4),
  }
}

/** Compared against where no key is stored, so that an unknown id costs what a wrong secret costs. */
const ABSENT_MAC = '00'.repeat(32)

/** True only for the key that was stored, or for what it was before a rotation that still overlaps. */
export function verifyKey(key: string, stored: StoredKey | undefined, peppers: Peppers, now: number): boolean {
  const current = isMac(key, stored?.mac ?? ABSENT_MAC, stored?.pepperVersion ?? peppers.current, peppers)
  const previous = stored?.previous
  const before = previous != null && now < previous.until && isMac(key, previous.mac, previous.pepperVersion, peppers)
  return stored !== undefined && (current || before)
}

/** In constant time for a given pepper. */
function isMac(key: string, mac: string, version: string, peppers: Peppers): boolean {
  const pepper = peppers.keys.get(version)
  if (pepper === undefined) return false
  const [found, wanted] = [macOf(key, pepper), hexToBytes(mac)]
  let difference = found.length ^ wanted.length
  for (let i = 0; i < found.length; i++) difference |= (found[i] ?? 0) ^ (wanted[i] ?? 0)
  return difference === 0
}
