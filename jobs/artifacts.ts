// Finished artifacts, by id. One is there when, and only when, a job that is done names it.
import { type FileHandle, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { MANIFEST_FILE } from '../compiler/contract.ts'
import { InputError } from '../compiler/errors.ts'
import { readAnyArtifact } from '../compiler/read-artifact.ts'
import { makeFolder, nodeHost, openFolder, PathError } from '../runtime/disk.ts'
import { Digest } from './contract.ts'
import { removePartials, syncFolder } from './partial-file.ts'

export interface ArtifactFile {
  readonly handle: FileHandle
  readonly bytes: number
  readonly sha256: string
}

interface Stored {
  readonly bytes: number
  readonly files: ReadonlyMap<string, { readonly bytes: number; readonly sha256: string }>
}

export class Artifacts {
  readonly folder: string
  readonly #stored = new Map<string, Stored>()

  private constructor(folder: string) {
    this.folder = folder
  }

  /** `named`: the artifacts of jobs that are done. What no job names, or is not whole, goes. */
  static async open(folder: string, named: ReadonlySet<string>): Promise<Artifacts> {
    await makeFolder(folder, 0o700)
    await removePartials(folder)
    const artifacts = new Artifacts(folder)
    for (const name of await readdir(folder)) {
      if (!Digest.safeParse(name).success) continue
      const whole = named.has(name) && (await artifacts.#remember(name).then(() => true, ifInputError))
      if (!whole) await rm(join(folder, name), { recursive: true, force: true })
    }
    return artifacts
  }

  has(id: string): boolean {
    return this.#stored.has(id)
  }

  get usedBytes(): number {
    return [...this.#stored.values()].reduce((sum, { bytes }) => sum + bytes, 0)
  }

  /** Moves a staged folder to its id. The same artifact, made by another recipe, is left as it is. */
  async commit(staged: string, id: string): Promise<void> {
    if (this.#stored.has(id)) {
      await rm(staged, { recursive: true, force: true })
      return
    }
    await rename(staged, join(this.folder, id))
    await syncFolder(this.folder)
    await this.#remember(id)
  }

  async remove(id: string): Promise<void> {
    if (!this.#stored.delete(id)) return
    // Gone at once for readers and for a crash; the bytes follow.
    const leaving = join(this.folder, `.${id}.removed.partial`)
    await rename(join(this.folder, id), leaving)
    await rm(leaving, { recursive: true, force: true })
  }

  /** Undefined for anything but the manifest and what it lists. The caller closes the handle. */
  async openFile(id: string, path: string): Promise<ArtifactFile | undefined> {
    const file = this.#stored.get(id)?.files.get(path)
    if (file === undefined) return undefined
    return { ...file, handle: await open(join(this.folder, id, path), 'r') }
  }

  async #remember(id: string): Promise<void> {
    const path = join(this.folder, id)
    const { manifest } = await readAnyArtifact(openFolder(path), nodeHost)
    const manifestBytes = (await stat(join(path, MANIFEST_FILE))).size
    const files = new Map(manifest.files.map(({ path, bytes, sha256 }) => [path, { bytes, sha256 }]))
    files.set(MANIFEST_FILE, { bytes: manifestBytes, sha256: id })
    const bytes = [...files.values()].reduce((sum, file) => sum + file.bytes, 0)
    this.#stored.set(id, { bytes, files })
  }
}

function ifInputError(error: unknown): false {
  // A link out of an artifact is none of its files.
  if (error instanceof InputError || error instanceof PathError) return false
  throw error
}
