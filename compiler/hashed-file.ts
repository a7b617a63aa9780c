// A file being written whose size and SHA-256 the manifest will list.
import type { FileEntry } from './contract.ts'
import type { ByteSink, Host, OutFolder, Sha256 } from './host.ts'

export class HashedFile {
  readonly #path: string
  readonly #sink: ByteSink
  readonly #hash: Sha256
  #bytes = 0

  private constructor(path: string, sink: ByteSink, hash: Sha256) {
    this.#path = path
    this.#sink = sink
    this.#hash = hash
  }

  static async create(out: OutFolder, path: string, host: Host): Promise<HashedFile> {
    return new HashedFile(path, await out.create(path), host.sha256())
  }

  get bytes(): number {
    return this.#bytes
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#bytes += bytes.length
    // The host writes while this thread hashes.
    const written = this.#sink.write(bytes)
    this.#hash.update(bytes)
    await written
  }

  async close(): Promise<FileEntry> {
    await this.#sink.close()
    return { path: this.#path, bytes: this.#bytes, sha256: this.#hash.hex() }
  }
}

/** A whole file at once. */
export async function writeFile(out: OutFolder, path: string, bytes: Uint8Array, host: Host): Promise<FileEntry> {
  const file = await HashedFile.create(out, path, host)
  await file.write(bytes)
  return file.close()
}

/** SHA-256 of bytes in memory. */
export function digestBytes(bytes: Uint8Array, host: Host): string {
  const hash = host.sha256()
  hash.update(bytes)
  return hash.hex()
}
