// Bytes of a file straight into memory that is there already, where the host can.
import type { ByteSource } from '../host.ts'

export async function readInto(source: ByteSource, offset: number, target: Uint8Array): Promise<void> {
  if (source.readInto !== undefined) await source.readInto(offset, target)
  else target.set(await source.read(offset, target.length))
}
