// Digests of text and of records: SHA-256, lower-case hex. Synchronous: web crypto takes ten times as long for texts this
// short.
import { sha256 as digestBytes } from '@noble/hashes/sha2.js'
import { bytesToHex } from '@noble/hashes/utils.js'

const encoder = new TextEncoder()

export function toHex(bytes: ArrayBuffer): string {
  return Array.from(new Uint8Array(bytes), (byte) => byte.toString(16).padStart(2, '0')).join('')
}

let hash = (text: string): string => bytesToHex(digestBytes(encoder.encode(text)))

/** For a host that has a faster one of its own. */
export function useHash(own: (text: string) => string): void {
  hash = own
}

export const sha256 = (text: string): string => hash(text)

/** A flat record with its keys sorted, so that the same facts give the same digest. */
export function digestRecord(record: Readonly<Record<string, unknown>>): string {
  const entries = Object.entries(record).sort(([a], [b]) => (a < b ? -1 : 1))
  return sha256(JSON.stringify(entries))
}
