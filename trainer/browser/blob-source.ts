// A Blob as the compiler reads files: a dropped file, or one of the browser's own storage.
import type { ByteSource } from '../../compiler/host.ts'

export function blobSource(name: string, blob: Blob): ByteSource {
  return {
    name,
    size: blob.size,
    async read(offset, length) {
      if (offset < 0 || length < 0 || offset + length > blob.size) {
        throw new RangeError(`${name}: bytes ${offset}..${offset + length} are outside the file of ${blob.size} bytes`)
      }
      return new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer())
    },
    close: async () => {},
  }
}
