// The data folder of `sidepath up`: one process at a time, private files, and nothing half written.
import { randomBytes } from 'node:crypto'
import { chmod, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { makeFolder } from '../../runtime/disk.ts'
import { UserError } from '../fail.ts'

const LOCK_FILE = 'up.lock'

export interface DataFolder {
  readonly path: string
  join(...parts: string[]): string
  /** The parsed file, or undefined when there is none. */
  readJson(name: string): Promise<unknown>
  /** Mode 0600; after a crash either the old file or the new one is there. */
  writePrivate(name: string, value: unknown): Promise<void>
  unlock(): Promise<void>
}

/** Makes the folder if need be and locks it; what a killed process left unfinished is removed. */
export async function openDataFolder(path: string): Promise<DataFolder> {
  const root = resolve(path)
  const there = await stat(root).catch(() => undefined)
  if (there && !there.isDirectory()) {
    throw new UserError(`--data-dir "${path}" is a file; choose another folder.`)
  }
  await makeFolder(root, 0o700)
  await lock(root, path)
  await removeUnfinished(root)
  return {
    path: root,
    join: (...parts) => join(root, ...parts),
    async readJson(name) {
      const text = await readFile(join(root, name), 'utf8').catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT') return undefined
        throw error
      })
      if (text === undefined) return undefined
      try {
        return JSON.parse(text)
      } catch {
        throw new UserError(`"${join(path, name)}" is not JSON; restore it, or delete it to have it made anew.`)
      }
    },
    writePrivate: (name, value) => writePrivate(join(root, name), `${JSON.stringify(value, null, 2)}\n`),
    unlock: () => rm(join(root, LOCK_FILE), { force: true }),
  }
}

async function writePrivate(path: string, text: string): Promise<void> {
  const partial = `${path}.${randomBytes(6).toString('hex')}.partial`
  const handle = await open(partial, 'wx', 0o600)
  await handle.writeFile(text)
  await handle.sync()
  await handle.close()
  await chmod(partial, 0o600)
  await rename(partial, path)
}

/** A lock file holds the pid; one whose process is gone was left by a crash and is taken over. */
async function lock(root: string, path: string): Promise<void> {
  const file = join(root, LOCK_FILE)
  const holder = Number(await readFile(file, 'utf8').catch(() => ''))
  if (holder > 0 && holder !== process.pid && isAlive(holder)) {
    throw new UserError(
      `"${path}" is in use by another sidepath (process ${holder}); stop that one or pass --data-dir with another folder.`,
    )
  }
  await writePrivate(file, `${process.pid}\n`)
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

async function removeUnfinished(root: string): Promise<void> {
  for (const folder of [root, join(root, 'artifacts')]) {
    for (const entry of await readdir(folder).catch(() => [])) {
      if (entry.endsWith('.partial')) await rm(join(folder, entry), { recursive: true, force: true })
    }
  }
}
