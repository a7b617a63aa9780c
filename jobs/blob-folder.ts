// Uploaded files as a folder that the compiler can read: names are keys of the recipe and never touch the disk.
import { join } from 'node:path'
import type { Folder } from '../compiler/host.ts'
import { openFile } from '../runtime/disk.ts'

/** `name` is what problems call the folder. */
export function blobFolder(blobs: string, name: string, files: Readonly<Record<string, string>>): Folder {
  return {
    name,
    async open(path) {
      const digest = Object.hasOwn(files, path) ? files[path] : undefined
      if (digest === undefined) return undefined
      return openFile(join(blobs, digest), `${name}/${path}`)
    },
  }
}
