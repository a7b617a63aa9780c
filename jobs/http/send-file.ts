// A file of an artifact, whole or a part of it: a download of gigabytes that breaks off can go on where it was.
import { Readable } from 'node:stream'
import type { Context } from 'hono'
import type { ArtifactFile } from '../artifacts.ts'
import { JobsError } from '../errors.ts'

export async function sendFile(context: Context, { handle, bytes, sha256 }: ArtifactFile): Promise<Response> {
  const etag = `"${sha256}"`
  const headers = {
    'content-type': 'application/octet-stream',
    'accept-ranges': 'bytes',
    'cache-control': 'private, max-age=31536000, immutable',
    etag,
  }
  try {
    const wanted = context.req.header('if-range') ?? etag
    const range = wanted === etag ? parseRange(context.req.header('range'), bytes) : undefined
    const { start, end } = range ?? { start: 0, end: bytes - 1 }
    const length = { 'content-length': String(end - start + 1) }
    const part = range === undefined ? {} : { 'content-range': `bytes ${start}-${end}/${bytes}` }
    const status = range === undefined ? 200 : 206
    const all = { ...headers, ...length, ...part }
    if (context.req.method === 'HEAD' || bytes === 0) {
      await handle.close()
      return context.body(null, status, all)
    }
    // The stream closes the file, also where the reader leaves early. Node's type of a web stream is not the DOM's.
    const stream = Readable.toWeb(handle.createReadStream({ start, end }))
    return context.body(stream as unknown as ReadableStream, status, all)
  } catch (error) {
    await handle.close()
    throw error
  }
}

/** One range of bytes; undefined for none, and for what RFC 9110 lets a server ignore. Throws `range_invalid`. */
function parseRange(header: string | undefined, bytes: number): { start: number; end: number } | undefined {
  const [, from, to] = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header ?? '') ?? []
  if (from === undefined || to === undefined || (from === '' && to === '')) return undefined
  const start = from === '' ? Math.max(0, bytes - Number(to)) : Number(from)
  const end = from === '' || to === '' ? bytes - 1 : Math.min(Number(to), bytes - 1)
  if (start > end) throw new JobsError('range_invalid', `the file has ${bytes} bytes`)
  return { start, end }
}
