// `<out>.partial`: where a download grows, over as many runs as it takes, until the whole of it becomes `<out>`.
import { open, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { dirname, join, relative, resolve, sep } from 'node:path'
import { makeFolder } from '../runtime/disk.ts'
import { PullError } from './errors.ts'
import { formatRecord, type PullRecord, parseRecord, RECORD_FILE } from './record.ts'

/** Says that the folder is a download of `repo`, and which process is at it. */
const MARKER_FILE = '.pulling.json'
/** A record lists some thousand files. */
const MAX_RECORD_BYTES = 32 * 1024 * 1024

export interface Staging {
  readonly path: string
  /** Writes the record and renames the folder to `out`. */
  commit(record: PullRecord): Promise<void>
  /** Lets another run go on with it. */
  release(): Promise<void>
}

/** `files`: what may be there; anything else of an earlier run goes. Throws `PullError` (`out-occupied`). */
export async function openStaging(out: string, repo: string, files: readonly string[]): Promise<Staging> {
  const path = `${resolve(out)}.partial`
  await requireOurs(path, repo)
  await makeFolder(path)
  const marker = join(path, MARKER_FILE)
  await claim(marker, repo, path)
  await removeOthers(path, new Set([MARKER_FILE, ...files, ...files.map((file) => `${file}.partial`)]))
  return {
    path,
    async commit(record) {
      await writeSynced(join(path, RECORD_FILE), formatRecord(record))
      await rm(marker)
      await rename(path, resolve(out))
      await syncFolder(dirname(path))
    },
    release: () => writeSynced(marker, `${JSON.stringify({ repo })}\n`),
  }
}

/** The record of a folder that a pull has finished; `undefined` where there is no folder, or an empty one. */
export async function readFinished(out: string): Promise<PullRecord | undefined> {
  const there = await stat(out).catch(() => undefined)
  if (there === undefined) return undefined
  if (!there.isDirectory()) {
    throw new PullError('out-occupied', `--out "${out}" is a file; choose a folder that does not exist yet.`)
  }
  const record = await readRecord(out)
  if (record !== undefined) return record
  if ((await readdir(out)).length === 0) return undefined
  throw new PullError('out-occupied', `--out "${out}" is not empty and was not pulled; choose another folder.`)
}

async function readRecord(folder: string): Promise<PullRecord | undefined> {
  const file = join(folder, RECORD_FILE)
  const size = (await stat(file).catch(() => undefined))?.size ?? Number.POSITIVE_INFINITY
  return size > MAX_RECORD_BYTES ? undefined : parseRecord(await readFile(file, 'utf8'))
}

async function requireOurs(path: string, repo: string): Promise<void> {
  const entries: string[] = await readdir(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw new PullError('out-occupied', `"${path}", where the download would grow, is no folder; move it away.`)
  })
  if (entries.length === 0) return
  const found = (await readMarker(join(path, MARKER_FILE)))?.repo ?? (await readRecord(path))?.repo
  if (found === repo) return
  const what = found === undefined ? 'holds something else' : `holds an unfinished download of ${JSON.stringify(found)}`
  throw new PullError(
    'out-occupied',
    `"${path}", where the download would grow, ${what}; delete it or choose another --out.`,
  )
}

async function claim(marker: string, repo: string, path: string): Promise<void> {
  const before = await readMarker(marker)
  if (before !== undefined && before.pid !== undefined && isAlive(before.pid)) {
    throw new PullError(
      'out-occupied',
      `process ${before.pid} is pulling into "${path}"; wait for it, or delete ${MARKER_FILE} there if it is no pull.`,
    )
  }
  await writeSynced(marker, `${JSON.stringify({ repo, pid: process.pid })}\n`)
}

async function readMarker(marker: string): Promise<{ repo?: string; pid?: number } | undefined> {
  const text = await readFile(marker, 'utf8').catch(() => undefined)
  if (text === undefined) return undefined
  try {
    const { repo, pid } = JSON.parse(text) as { repo?: unknown; pid?: unknown }
    return {
      ...(typeof repo === 'string' ? { repo } : {}),
      ...(typeof pid === 'number' && Number.isSafeInteger(pid) && pid > 0 ? { pid } : {}),
    }
  } catch {
    return undefined
  }
}

function isAlive(pid: number): boolean {
  if (pid === process.pid) return false
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM'
  }
}

async function removeOthers(root: string, kept: ReadonlySet<string>): Promise<void> {
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    if (entry.isDirectory()) continue
    const path = join(entry.parentPath, entry.name)
    if (!kept.has(relative(root, path).split(sep).join('/'))) await rm(path, { force: true })
  }
  await removeEmptyFolders(root)
}

async function removeEmptyFolders(folder: string): Promise<boolean> {
  let isEmpty = true
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory() && (await removeEmptyFolders(path))) await rm(path, { recursive: true })
    else isEmpty = false
  }
  return isEmpty
}

async function writeSynced(path: string, text: string): Promise<void> {
  const handle = await open(`${path}.new`, 'w')
  try {
    await handle.writeFile(text)
    await handle.sync()
  } finally {
    await handle.close()
  }
  await rename(`${path}.new`, path)
}

async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r')
  await handle.sync().finally(() => handle.close())
}
