// The shape of a key, `sp_<env>_<keyId>_<secret>_<crc32>`: what can be refused without asking the database.
// Underscores survive a double click; the checksum turns a typo away early and lets secret scanners be sure.

const ALPHABET = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
/** 62^43 > 2^256. */
const SECRET_CHARS = 43
/** 62^6 > 2^32. */
const CRC_CHARS = 6
const KEY_ID_CHARS = 16
/** 62^16 < 2^96: 12 random bytes, cut to 16 characters, keep 95 bits. */
const KEY_ID_BYTES = 12

const KEY = /^sp_([a-z0-9]{1,16})_([0-9A-Za-z]{16})_([0-9A-Za-z]{43})_([0-9A-Za-z]{6})$/
export const ENVIRONMENT = /^[a-z0-9]{1,16}$/

function encodeBase62(bytes: Uint8Array, chars: number): string {
  let value = 0n
  for (const byte of bytes) value = (value << 8n) | BigInt(byte)
  let text = ''
  for (let i = 0; i < chars; i++) {
    text = ALPHABET[Number(value % 62n)] + text
    value /= 62n
  }
  return text
}

/** CRC-32 (IEEE 802.3, reflected, 0xEDB88320), over ASCII. */
export function crc32(ascii: string): number {
  let crc = 0xffffffff
  for (let i = 0; i < ascii.length; i++) {
    crc ^= ascii.charCodeAt(i)
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0)
  }
  return (crc ^ 0xffffffff) >>> 0
}

function checksum(text: string): string {
  const crc = crc32(text)
  return encodeBase62(Uint8Array.of(crc >>> 24, crc >>> 16, crc >>> 8, crc), CRC_CHARS)
}

/** A fresh key, of a fresh id where none is given: never chosen by a person, so a fast MAC is enough to store it. */
export function generateKey(
  environment: string,
  id = encodeBase62(crypto.getRandomValues(new Uint8Array(KEY_ID_BYTES)), KEY_ID_CHARS),
): { id: string; key: string } {
  if (!ENVIRONMENT.test(environment)) throw new TypeError('environment must be 1 to 16 of a-z and 0-9')
  const secret = encodeBase62(crypto.getRandomValues(new Uint8Array(32)), SECRET_CHARS)
  const body = `sp_${environment}_${id}_${secret}`
  return { id, key: `${body}_${checksum(body)}` }
}

/** The key id, or null where the text is not a key of this environment. */
export function parseKey(text: string, environment: string): string | null {
  const match = KEY.exec(text)
  if (match === null || match[1] !== environment) return null
  if (checksum(text.slice(0, -(CRC_CHARS + 1))) !== match[4]) return null
  return match[2] ?? null
}
