// Files that are whole or not there: written under another name, flushed, renamed; what a crash left is swept up.
import { randomBytes } from 'node:crypto'
import { type FileHandle, open, readdir, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'

/** The suffix that runtime/disk.ts gives its staging folders too. */
const SUFFIX = '.partial'

export interface PartialFile {
  readonly handle: FileHandle
  /** After it the file is at its name, even if the power goes. */
  commit(): Promise<void>
  /** Does nothing after `commit`. */
  discard(): Promise<void>
}

export async function createPartial(path: string): Promise<PartialFile> {
  const partial = join(dirname(path), `.${basename(path)}.${randomBytes(6).toString('hex')}${SUFFIX}`)
  const handle = await open(partial, 'wx', 0o600)
  let isOpen = true
  const close = async () => {
    if (isOpen) await handle.close()
    isOpen = false
  }
  return {
    handle,
    async commit() {
      await handle.sync()
      await close()
      await rename(partial, path)
      await syncFolder(dirname(path))
    },
    async discard() {
      await close()
      await rm(partial, { force: true })
    },
  }
}

export async function writeWhole(path: string, text: string): Promise<void> {
  const file = await createPartial(path)
  try {
    await file.handle.writeFile(text)
    await file.commit()
  } finally {
    await file.discard()
  }
}

/** Removes what is unfinished in a folder; `of` limits it to one name. */
export async function removePartials(folder: string, of?: string): Promise<void> {
  const prefix = of === undefined ? '.' : `.${of}.`
  for (const entry of await readdir(folder)) {
    if (!entry.startsWith(prefix) || !entry.endsWith(SUFFIX)) continue
    await rm(join(folder, entry), { recursive: true, force: true })
  }
}

/** Without this a rename may be lost with the power, though the file itself is on disk. */
export async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r')
  await handle.sync().finally(() => handle.close())
}
