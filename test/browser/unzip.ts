// The files of a ZIP by its central directory (APPNOTE 6.3.10), each against its checksum. Stored entries only.
import { crc32 } from 'node:zlib'

const [END, ENTRY, LOCAL] = [0x06054b50, 0x02014b50, 0x04034b50]
const [END_BYTES, ENTRY_BYTES, LOCAL_BYTES] = [22, 46, 30]

export function unzip(bytes: Buffer): Map<string, Buffer> {
  const files = new Map<string, Buffer>()
  const end = bytes.length - END_BYTES
  if (bytes.readUInt32LE(end) !== END) throw new Error('no end of a central directory')
  const [count, length, start] = [
    bytes.readUInt16LE(end + 10),
    bytes.readUInt32LE(end + 12),
    bytes.readUInt32LE(end + 16),
  ]
  if (start + length !== end) throw new Error('the central directory is not where it is said to be')
  let at = start
  for (let i = 0; i < count; i += 1) {
    if (bytes.readUInt32LE(at) !== ENTRY) throw new Error('no entry of a central directory')
    const [method, crc, packed, size] = [
      bytes.readUInt16LE(at + 10),
      bytes.readUInt32LE(at + 16),
      bytes.readUInt32LE(at + 20),
      bytes.readUInt32LE(at + 24),
    ]
    const [nameBytes, moreBytes, commentBytes, local] = [
      bytes.readUInt16LE(at + 28),
      bytes.readUInt16LE(at + 30),
      bytes.readUInt16LE(at + 32),
      bytes.readUInt32LE(at + 42),
    ]
    const name = bytes.toString('utf8', at + ENTRY_BYTES, at + ENTRY_BYTES + nameBytes)
    if (method !== 0 || packed !== size || bytes.readUInt32LE(local) !== LOCAL) throw new Error(`${name} is not stored`)
    const from = local + LOCAL_BYTES + bytes.readUInt16LE(local + 26) + bytes.readUInt16LE(local + 28)
    const content = bytes.subarray(from, from + size)
    if (crc32(content) !== crc) throw new Error(`${name} has another checksum`)
    if (bytes.readUInt32LE(local + 14) !== crc) throw new Error(`${name} has two checksums`)
    files.set(name, content)
    at += ENTRY_BYTES + nameBytes + moreBytes + commentBytes
  }
  return files
}
