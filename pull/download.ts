// One file: into `<path>.partial`, from where an earlier run stopped, and to its name once its digest is right.
import { constants } from 'node:fs'
import { type FileHandle, lstat, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { makeFolder } from '../runtime/disk.ts'
import { ContentHash } from './content-hash.ts'
import { PullError, Transient } from './errors.ts'
import { type Hub, interrupted, networkError } from './hub.ts'
import type { RemoteFile } from './listing.ts'
import { type Retry, retry } from './retry.ts'

export interface Download extends Retry {
  readonly hub: Hub
  /** Of the file at the commit. */
  readonly url: string
  readonly file: RemoteFile
  /** Where it goes. */
  readonly path: string
  readonly signal: AbortSignal | undefined
  /** In the place of a minute without a byte. */
  readonly idleMs: number | undefined
  /** Told of bytes that are on disk, and, below zero, of those that had to go. */
  readonly onBytes: (bytes: number) => void
}

const CHUNK_BYTES = 4 * 1024 * 1024
/** A connection without a byte for so long is dead. */
const IDLE_MS = 60_000
/** A pointer file of Git LFS is under 200 bytes. */
const POINTER_BYTES = 1024
const POINTER = 'version https://git-lfs'

/** The SHA-256 of the content. A file that is there already is checked and not asked for again. */
export async function download(options: Download): Promise<string> {
  const { file, path, onBytes } = options
  await makeFolder(dirname(path))
  const there = await hashExisting(path, options)
  if (there !== undefined) {
    onBytes(file.bytes)
    return there
  }
  const partial = `${path}.partial`
  for (;;) {
    // No link is followed: nothing here makes one.
    const handle = await open(partial, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW)
    let resumedFrom: number
    let sha256: string | undefined
    try {
      const hash = new ContentHash(file)
      await hashPrefix(handle, hash, options)
      resumedFrom = hash.bytes
      const transfer = { hash, restarted: false }
      sha256 = await retry(
        options,
        () => fill(handle, transfer, options),
        () => transfer.hash.bytes,
      )
      if (transfer.restarted) resumedFrom = 0
    } finally {
      await handle.close()
    }
    if (sha256 !== undefined) {
      await rename(partial, path)
      return sha256
    }
    await rm(partial, { force: true })
    onBytes(-file.bytes)
    // What an earlier run left may have been damaged by how it ended; bytes that came in one run are the server's.
    if (resumedFrom === 0) throw mismatch(file)
  }
}

interface Transfer {
  hash: ContentHash
  /** The server sent the whole file though a part was asked for. */
  restarted: boolean
}

/** Undefined where the bytes are all there and are not what was listed. */
async function fill(handle: FileHandle, transfer: Transfer, options: Download): Promise<string | undefined> {
  const { file, hub, url, signal, onBytes } = options
  if (transfer.hash.bytes < file.bytes) {
    const from = transfer.hash.bytes
    const idle = new AbortController()
    const timer = setTimeout(() => idle.abort(), options.idleMs ?? IDLE_MS)
    try {
      // Compressed bytes could not be counted, nor resumed.
      const headers = { 'accept-encoding': 'identity', ...(from === 0 ? {} : { range: `bytes=${from}-` }) }
      const stop = signal === undefined ? idle.signal : AbortSignal.any([signal, idle.signal])
      const response = await hub.get(url, headers, stop)
      if (from > 0 && response.status !== 206) {
        await handle.truncate(0)
        onBytes(-from)
        transfer.hash = new ContentHash(file)
        transfer.restarted = true
      } else checkRange(response, from, file)
      await copy(response, handle, transfer.hash, options, timer)
    } catch (error) {
      // Also where another file failed, which the Hub's own signal knows nothing of.
      if (signal?.aborted) throw interrupted()
      throw isBroken(error) ? networkError(new URL(url), error, signal) : error
    } finally {
      clearTimeout(timer)
      idle.abort()
    }
    if (transfer.hash.bytes < file.bytes) {
      const what = `${named(file)}: the connection ended at ${transfer.hash.bytes} of ${file.bytes} bytes`
      throw new Transient(new PullError('hub-unavailable', `${what}; run the same command to go on.`))
    }
  }
  await handle.sync()
  await refusePointer(handle, file)
  return transfer.hash.finish()
}

async function copy(
  response: Response,
  handle: FileHandle,
  hash: ContentHash,
  { file, signal, onBytes }: Download,
  timer: NodeJS.Timeout,
): Promise<void> {
  for await (const part of response.body ?? []) {
    timer.refresh()
    if (signal?.aborted) throw interrupted()
    if (hash.bytes + part.length > file.bytes) {
      await handle.truncate(0)
      throw new PullError(
        'digest-mismatch',
        `${named(file)}: the server sends more than the ${file.bytes} bytes that are listed; nothing of it was kept.`,
      )
    }
    for (let done = 0; done < part.length; ) {
      const { bytesWritten } = await handle.write(part, done, part.length - done, hash.bytes + done)
      done += bytesWritten
    }
    hash.update(part)
    onBytes(part.length)
  }
}

/** A part that begins elsewhere, or of a file of another size, is not the part that was asked for. */
function checkRange(response: Response, from: number, file: RemoteFile): void {
  const expected = `bytes ${from}-${file.bytes - 1}/${file.bytes}`
  const found = response.status === 206 ? response.headers.get('content-range') : expected
  const length = response.headers.get('content-length')
  const isEncoded = !['identity', null].includes(response.headers.get('content-encoding'))
  if (found === expected && !isEncoded && (length === null || Number(length) === file.bytes - from)) return
  throw new PullError(
    'digest-mismatch',
    `${named(file)}: the server offers other bytes than the ${file.bytes} that are listed; check HF_ENDPOINT, or try later.`,
  )
}

async function hashPrefix(handle: FileHandle, hash: ContentHash, { file, signal, onBytes }: Download): Promise<void> {
  const { size } = await handle.stat()
  if (size > file.bytes) {
    await handle.truncate(0)
    return
  }
  const buffer = new Uint8Array(Math.min(CHUNK_BYTES, size))
  while (hash.bytes < size) {
    if (signal?.aborted) throw interrupted()
    const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.length, size - hash.bytes), hash.bytes)
    if (bytesRead === 0) break
    hash.update(buffer.subarray(0, bytesRead))
    onBytes(bytesRead)
  }
}

/** The SHA-256 of a file that an earlier run ended; undefined, and no file, where there is none or another. */
async function hashExisting(path: string, options: Download): Promise<string | undefined> {
  const there = await lstat(path).catch(() => undefined)
  if (there === undefined) return undefined
  if (there.isFile() && there.size === options.file.bytes) {
    const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW)
    try {
      const hash = new ContentHash(options.file)
      await hashPrefix(handle, hash, { ...options, onBytes: () => {} })
      const sha256 = hash.finish()
      if (sha256 !== undefined) return sha256
    } finally {
      await handle.close()
    }
  }
  await rm(path, { recursive: true, force: true })
  return undefined
}

async function refusePointer(handle: FileHandle, file: RemoteFile): Promise<void> {
  if (file.bytes > POINTER_BYTES) return
  const { buffer, bytesRead } = await handle.read(new Uint8Array(POINTER.length), 0, POINTER.length, 0)
  if (new TextDecoder().decode(buffer.subarray(0, bytesRead)) !== POINTER) return
  throw new PullError(
    'digest-mismatch',
    `${named(file)} is a Git LFS pointer and not the file; whoever uploaded it did so without LFS, ask them to mend it.`,
  )
}

function mismatch(file: RemoteFile): PullError {
  return new PullError(
    'digest-mismatch',
    `${named(file)}: the bytes received have another digest than the Hub lists; nothing of it was kept, try again.`,
  )
}

function named({ path }: RemoteFile): string {
  return JSON.stringify(path)
}

/** How `fetch` says that a body broke off, or was aborted; an error of the file system is another. */
function isBroken(error: unknown): boolean {
  return error instanceof TypeError || (error instanceof Error && error.name === 'AbortError')
}
