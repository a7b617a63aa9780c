// A folder for copies of weights: it goes whatever ends the verb.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** What a shell reports of a program that Ctrl-C ended: 128 + SIGINT. */
const EXIT_INTERRUPTED = 130

/** `verb`: part of the folder's name. */
export async function withTemporaryFolder<T>(verb: string, use: (path: string) => Promise<T>): Promise<T> {
  const path = await mkdtemp(join(tmpdir(), `sidepath-${verb}-`))
  const remove = () => rm(path, { recursive: true, force: true })
  const interrupted = () => void remove().finally(() => process.exit(EXIT_INTERRUPTED))
  process.once('SIGINT', interrupted)
  process.once('SIGTERM', interrupted)
  try {
    return await use(path)
  } finally {
    process.off('SIGINT', interrupted)
    process.off('SIGTERM', interrupted)
    await remove()
  }
}
