// Files as the compiler wants them, on Node: bounded random access, folders that nothing escapes, atomic output.
import { createHash, randomBytes } from 'node:crypto'
import { type FileHandle, mkdir, open, realpath, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path'

/** A path of the input that leaves its folder; the sentence says what to do. */
export class PathError extends Error {
  override readonly name = 'PathError'
}

/** So much is written before it is brought to the disk: a few tenths of a second of a fast one. */
const FLUSH_BYTES = 128 * 1024 * 1024

/** A file opened for random access. See `ByteSource` in compiler/host.ts. */
export async function openFile(path: string, name: string = path) {
  const handle = await open(path, 'r')
  const { size } = await handle.stat()
  const check = (offset: number, length: number): void => {
    if (offset >= 0 && length >= 0 && offset + length <= size) return
    throw new RangeError(`${name}: bytes ${offset}..${offset + length} are outside the file of ${size} bytes`)
  }
  const fill = async (offset: number, target: Uint8Array): Promise<void> => {
    let done = 0
    while (done < target.length) {
      const { bytesRead } = await handle.read(target, done, target.length - done, offset + done)
      if (bytesRead === 0) throw new RangeError(`${name}: the file shrank while it was read`)
      done += bytesRead
    }
  }
  return {
    name,
    size,
    laneFile: handle.fd,
    async read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
      check(offset, length)
      const bytes = new Uint8Array(length)
      await fill(offset, bytes)
      return bytes
    },
    async readInto(offset: number, target: Uint8Array): Promise<void> {
      check(offset, target.length)
      await fill(offset, target)
    },
    close: () => handle.close(),
  }
}

/** A snapshot of Hugging Face's cache, whose files are links into the `blobs` of the same repository. */
const HUB_SNAPSHOT = /^(.*[/\\](?:models|datasets|spaces)--[^/\\]+)[/\\]snapshots[/\\][^/\\]+(?:[/\\]|$)/
/** What the cache names a blob: git's SHA-1 or a SHA-256. */
const HUB_BLOB = /^(?:[0-9a-f]{40}|[0-9a-f]{64})$/

/**
 * A folder to read from. It may itself be a link; what is in it may link only within it, or, in a snapshot of Hugging
 * Face's cache, to a blob of the same repository. Any other way out, by `..`, an absolute path or a link, throws
 * `PathError`.
 */
export function openFolder(path: string) {
  const root = resolve(path)
  return {
    name: path,
    async open(child: string) {
      const full = resolve(root, child)
      const isPlain = !isAbsolute(child) && !child.includes('\0') && leadsInside(relative(root, full))
      if (!isPlain) throw new PathError(`${path}: ${quoted(child)} is outside the folder; name a file in it`)
      const real = await realpath(full).catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ELOOP') throw new PathError(`${path}: ${quoted(child)} is a link to itself; replace it`)
        return ignoreMissing(error)
      })
      if (real === undefined) return undefined
      const realRoot = await realpath(root)
      if (!leadsInside(relative(realRoot, real)) && !isHubBlob(realRoot, real)) {
        throw new PathError(
          `${path}: ${quoted(child)} is a link that leaves the folder; put the file itself there, e.g. with cp -L`,
        )
      }
      if (!(await stat(real)).isFile()) return undefined
      return openFile(real, join(path, child))
    },
  }
}

function isHubBlob(root: string, file: string): boolean {
  const repository = HUB_SNAPSHOT.exec(root)?.[1]
  return repository !== undefined && dirname(file) === join(repository, 'blobs') && HUB_BLOB.test(basename(file))
}

function leadsInside(way: string): boolean {
  return way !== '' && way !== '..' && !way.startsWith(`..${sep}`) && !isAbsolute(way)
}

/** Names come from files of strangers: no control characters, no novel. */
function quoted(text: string): string {
  return JSON.stringify(text.slice(0, 200))
}

/** A folder under a temporary name beside `path`; `commit` flushes it and renames it into place. */
export async function stageFolder(path: string) {
  const parent = dirname(resolve(path))
  await makeFolder(parent)
  const staging = join(parent, `.${basename(path)}.${randomBytes(6).toString('hex')}.partial`)
  await mkdir(staging)
  return {
    /** Where the files are until `commit`. */
    path: staging,
    async create(child: string) {
      const full = resolve(staging, child)
      if (!full.startsWith(staging + sep)) throw new RangeError(`${path}: "${child}" is outside the folder`)
      await makeFolder(dirname(full))
      return openSink(await open(full, 'wx'))
    },
    /** Fails, leaving `target` untouched, when it exists and is not an empty folder. */
    async commit(target: string = path): Promise<void> {
      await rename(staging, target)
      await syncFolder(parent)
    },
    async discard(): Promise<void> {
      await rm(staging, { recursive: true, force: true })
    },
  }
}

/** A folder that keeps what a long job has reached. Made where it is not there yet. */
export async function openWorkFolder(path: string) {
  await makeFolder(path)
  const full = (child: string) => {
    const target = resolve(path, child)
    if (!leadsInside(relative(resolve(path), target))) throw new RangeError(`${path}: "${child}" is outside the folder`)
    return target
  }
  return {
    ...openFolder(path),
    /** The new file whole, or the old one as it was, whatever stops the machine: written beside, flushed, renamed. */
    async replace(child: string, bytes: Uint8Array): Promise<void> {
      const target = full(child)
      await makeFolder(dirname(target))
      const beside = `${target}.partial`
      try {
        const handle = await open(beside, 'w')
        await handle
          .writeFile(bytes)
          .then(() => handle.sync())
          .finally(() => handle.close())
        await rename(beside, target)
      } catch (error) {
        await rm(beside, { force: true })
        throw error
      }
      await syncFolder(dirname(target))
    },
    async append(child: string, bytes: Uint8Array): Promise<void> {
      const handle = await open(full(child), 'a')
      await handle.writeFile(bytes).finally(() => handle.close())
    },
  }
}

/** A file being written. What is written goes to the disk meanwhile, so that `close` does not wait for all of it. */
function openSink(handle: FileHandle) {
  let dirty = 0
  let flushing: Promise<void> | undefined
  let failure: unknown
  const wrote = (bytes: number): void => {
    dirty += bytes
    if (dirty < FLUSH_BYTES || flushing !== undefined) return
    dirty = 0
    flushing = handle
      .datasync()
      // The system tells of a failed write once, so a later flush would succeed.
      .catch((error: unknown) => {
        failure ??= error
      })
      .then(() => {
        flushing = undefined
      })
  }
  const writeAll = async (bytes: Uint8Array, offset: number | null): Promise<void> => {
    for (let done = 0; done < bytes.length; ) {
      const at = offset === null ? null : offset + done
      const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, at)
      done += bytesWritten
    }
    wrote(bytes.length)
  }
  return {
    write: (bytes: Uint8Array) => writeAll(bytes, null),
    random: { laneFile: handle.fd, writeAt: (offset: number, bytes: Uint8Array) => writeAll(bytes, offset), wrote },
    async close(): Promise<void> {
      try {
        await flushing
        if (failure !== undefined) throw failure
        await handle.sync()
      } finally {
        await handle.close()
      }
    },
  }
}

/** `mkdir -p`. Node's own recursive form never returns where the system answers ENOENT below a folder that exists. */
export async function makeFolder(path: string, mode = 0o777): Promise<void> {
  const full = resolve(path)
  const there = await stat(full).catch(ignoreMissing)
  if (there?.isDirectory()) return
  if (dirname(full) !== full) await makeFolder(dirname(full))
  await mkdir(full, { mode }).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'EEXIST') throw error
  })
}

/** SHA-256 for the compiler. See `Host` in compiler/host.ts. */
export const nodeHost = {
  sha256() {
    const hash = createHash('sha256')
    return {
      update(bytes: Uint8Array): void {
        hash.update(bytes)
      },
      hex: (): string => hash.digest('hex'),
    }
  },
}

/** Without this a rename may be lost with the power, though every file in the folder is on disk. */
async function syncFolder(path: string): Promise<void> {
  const handle = await open(path, 'r')
  await handle.sync().finally(() => handle.close())
}

function ignoreMissing(error: NodeJS.ErrnoException): undefined {
  if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return undefined
  throw error
}
