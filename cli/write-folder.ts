// A folder that a verb makes: all of it or nothing, whatever stops the verb.
import { readdir, stat } from 'node:fs/promises'
import type { OutFolder } from '../compiler/host.ts'
import { stageFolder } from '../runtime/disk.ts'
import { UserError } from './fail.ts'

/** What a shell reports of a program that Ctrl-C ended: 128 + SIGINT. */
const EXIT_INTERRUPTED = 130

/**
 * Runs `write` on a staging folder beside `path`, which lies at `stagedPath`, and renames it into place. On SIGINT or SIGTERM `stop` is called, what
 * was written is removed, and the process ends.
 */
export async function writeFolder<T>(
  path: string,
  write: (out: OutFolder, stagedPath: string) => Promise<T>,
  stop: () => void,
): Promise<T> {
  await requireFree(path)
  const staged = await stageFolder(path)
  let isInterrupted = false
  const interrupted = () => {
    isInterrupted = true
    stop()
    void staged.discard().finally(() => process.exit(EXIT_INTERRUPTED))
  }
  process.once('SIGINT', interrupted)
  process.once('SIGTERM', interrupted)
  try {
    const out: OutFolder = {
      // The process ends in a moment; a file made now would bring the folder back.
      create: (file) => (isInterrupted ? new Promise(() => {}) : staged.create(file)),
    }
    const result = await write(out, staged.path)
    await staged.commit()
    return result
  } finally {
    process.off('SIGINT', interrupted)
    process.off('SIGTERM', interrupted)
    await staged.discard()
  }
}

async function requireFree(path: string): Promise<void> {
  const there = await stat(path).catch(() => undefined)
  if (there === undefined) return
  if (!there.isDirectory()) throw new UserError(`--out "${path}" is a file; choose a folder that does not exist yet.`)
  if ((await readdir(path)).length > 0) {
    throw new UserError(`--out "${path}" is not empty; choose a folder that does not exist yet.`)
  }
}
