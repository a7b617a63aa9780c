// Several files as one download: a ZIP (APPNOTE 6.3.10) of stored entries. Weights do not pack.

interface Entry {
  readonly name: string
  readonly bytes: Uint8Array<ArrayBuffer>
}

/** Beyond, a ZIP needs its 64-bit form. */
const MAX_BYTES = 0xffffffff
/** 1980-01-01, the first day that the format has: the same files make the same bytes. */
const DATE = (1 << 5) | 1
/** Version 2.0, and names in UTF-8. */
const [VERSION, UTF8] = [20, 0x0800]

export function zip(entries: readonly Entry[]): Blob {
  const parts: Uint8Array<ArrayBuffer>[] = []
  const directory: Uint8Array<ArrayBuffer>[] = []
  let at = 0
  for (const { name, bytes } of entries) {
    const label = new TextEncoder().encode(name)
    const common = [VERSION, UTF8, 0, 0, DATE].map((value) => [2, value] as const)
    const sizes = [crc32(bytes), bytes.length, bytes.length].map((value) => [4, value] as const)
    const lengths = [
      [2, label.length],
      [2, 0],
    ] as const
    const local = fields([4, 0x04034b50], ...common, ...sizes, ...lengths)
    directory.push(
      fields([4, 0x02014b50], [2, VERSION], ...common, ...sizes, ...lengths, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]),
      label,
    )
    parts.push(local, label, bytes)
    at += local.length + label.length + bytes.length
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0)
  if (at + length > MAX_BYTES) throw new RangeError(`the files have ${at} bytes; one download takes ${MAX_BYTES}`)
  const count = entries.length
  const end = fields([4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, length], [4, at], [2, 0])
  return new Blob([...parts, ...directory, end], { type: 'application/zip' })
}

function fields(...list: readonly (readonly [size: 2 | 4, value: number])[]): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(list.reduce((sum, [size]) => sum + size, 0))
  const view = new DataView(bytes.buffer)
  let at = 0
  for (const [size, value] of list) {
    if (size === 2) view.setUint16(at, value, true)
    else view.setUint32(at, value, true)
    at += size
  }
  return bytes
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1
  return value
})

function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff
  for (const byte of bytes) crc = (crc >>> 8) ^ (TABLE[(crc ^ byte) & 0xff] as number)
  return (crc ^ 0xffffffff) >>> 0
}
