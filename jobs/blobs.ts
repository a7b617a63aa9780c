// Uploads, by content: a file is there under its SHA-256 or it is not there. What is inside is the compiler's to distrust.
import { createHash } from 'node:crypto'
import { readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { makeFolder } from '../runtime/disk.ts'
import { Digest } from './contract.ts'
import { JobsError } from './errors.ts'
import { type Limits, MAX_UPLOADS } from './limits.ts'
import { createPartial, removePartials } from './partial-file.ts'

export interface Upload {
  readonly sha256: string
  /** What the caller announced; undefined where it did not. */
  readonly announcedBytes: number | undefined
  readonly bytes: AsyncIterable<Uint8Array>
}

type BlobLimits = Pick<Limits, 'maxBlobBytes' | 'blobQuotaBytes'>

export class Blobs {
  readonly folder: string
  readonly #limits: BlobLimits
  readonly #sizes: Map<string, number>
  /** Bytes on disk, those of unfinished uploads included. */
  #usedBytes: number
  #uploads = 0

  private constructor(folder: string, limits: BlobLimits, sizes: Map<string, number>) {
    this.folder = folder
    this.#limits = limits
    this.#sizes = sizes
    this.#usedBytes = [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0)
  }

  static async open(folder: string, limits: BlobLimits): Promise<Blobs> {
    await makeFolder(folder, 0o700)
    await removePartials(folder)
    const sizes = new Map<string, number>()
    for (const name of await readdir(folder)) {
      if (Digest.safeParse(name).success) sizes.set(name, (await stat(join(folder, name))).size)
    }
    return new Blobs(folder, limits, sizes)
  }

  /** Undefined where there is no such blob. */
  sizeOf(sha256: string): number | undefined {
    return this.#sizes.get(sha256)
  }

  /** True where the blob was not there before. Throws `JobsError`, and then nothing of the upload stays. */
  async put({ sha256, announcedBytes, bytes }: Upload): Promise<boolean> {
    if (this.#sizes.has(sha256)) return false
    this.#check(announcedBytes ?? 0, 0)
    if (this.#uploads >= MAX_UPLOADS) {
      throw new JobsError('uploads_full', `${MAX_UPLOADS} uploads are under way; wait for one to end`)
    }
    this.#uploads += 1
    let written = 0
    let kept = false
    const file = await createPartial(join(this.folder, sha256)).catch((error) => {
      this.#uploads -= 1
      throw error
    })
    try {
      const hash = createHash('sha256')
      for await (const chunk of bytes) {
        this.#check(written + chunk.length, written)
        written += chunk.length
        this.#usedBytes += chunk.length
        hash.update(chunk)
        await file.handle.writeFile(chunk)
      }
      const found = hash.digest('hex')
      if (found !== sha256) {
        throw new JobsError('blob_mismatch', `the ${written} bytes received have the SHA-256 ${found}; send them again`)
      }
      await file.commit()
      // Another upload of the same bytes may have ended first; the file is one, whoever renamed last.
      kept = !this.#sizes.has(sha256)
      this.#sizes.set(sha256, written)
      return kept
    } finally {
      this.#uploads -= 1
      if (!kept) this.#usedBytes -= written
      await file.discard()
    }
  }

  /** False where it was not there. */
  async remove(sha256: string): Promise<boolean> {
    const bytes = this.#sizes.get(sha256)
    if (bytes === undefined) return false
    this.#sizes.delete(sha256)
    await rm(join(this.folder, sha256), { force: true })
    this.#usedBytes -= bytes
    return true
  }

  /** `counted`: what `#usedBytes` has of this upload already. */
  #check(bytes: number, counted: number): void {
    const { maxBlobBytes, blobQuotaBytes } = this.#limits
    if (bytes > maxBlobBytes) {
      throw new JobsError('blob_too_large', `a file may have at most ${maxBlobBytes} bytes; split the checkpoint`)
    }
    if (this.#usedBytes - counted + bytes > blobQuotaBytes) {
      throw new JobsError('quota_exceeded', `uploads may have ${blobQuotaBytes} bytes together; delete some of them`)
    }
  }
}
