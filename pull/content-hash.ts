// Both digests of one content while it streams by: SHA-256 for the record, git's SHA-1 where that is all the Hub gives.
import { createHash } from 'node:crypto'
import type { RemoteFile } from './listing.ts'

export class ContentHash {
  readonly #file: RemoteFile
  #sha256 = createHash('sha256')
  #git = createHash('sha1')
  #bytes = 0

  constructor(file: RemoteFile) {
    this.#file = file
    // https://git-scm.com/book/en/v2/Git-Internals-Git-Objects
    this.#git.update(`blob ${file.bytes}\0`)
  }

  /** How many bytes it has seen. */
  get bytes(): number {
    return this.#bytes
  }

  update(bytes: Uint8Array): void {
    this.#sha256.update(bytes)
    if (this.#file.digest.kind === 'git') this.#git.update(bytes)
    this.#bytes += bytes.length
  }

  /** The SHA-256, where the content is what was listed; the object is spent afterwards. */
  finish(): string | undefined {
    const sha256 = this.#sha256.digest('hex')
    const found = this.#file.digest.kind === 'git' ? this.#git.digest('hex') : sha256
    return this.#bytes === this.#file.bytes && found === this.#file.digest.hex ? sha256 : undefined
  }
}
