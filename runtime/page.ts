// Files as a page has them: below a URL. See `Folder` in compiler/host.ts.
import { sha256 } from './sha256.ts'

/** SHA-256 for the compiler. See `Host` in compiler/host.ts. */
export const pageHost = { sha256 }

/** As in the manifest: no way out of the folder, and nothing that a URL would read otherwise. */
const PLAIN = /^[\w-][\w.-]*(\/[\w-][\w.-]*)*$/

/** `url` ends in a slash. A file is fetched when it is first read, whole, and kept until `forget`. */
export function urlFolder(url: URL) {
  const kept = new Map<string, Promise<Uint8Array<ArrayBuffer>>>()
  const fetchWhole = (path: string): Promise<Uint8Array<ArrayBuffer>> => {
    const before = kept.get(path)
    if (before !== undefined) return before
    const bytes = fetch(new URL(path, url)).then(async (answer) => {
      if (!answer.ok) throw new Error(`${path} of ${url.pathname}: HTTP status ${answer.status}`)
      return new Uint8Array(await answer.arrayBuffer())
    })
    kept.set(path, bytes)
    // What failed may be tried again.
    bytes.catch(() => kept.delete(path))
    return bytes
  }
  const sizeOf = async (path: string): Promise<number | undefined> => {
    if (kept.has(path)) return (await fetchWhole(path)).length
    const answer = await fetch(new URL(path, url), { method: 'HEAD' })
    if (answer.status === 404) return undefined
    const length = answer.headers.get('content-length')
    // A server that packs files tells the size of the package.
    const known = answer.ok && length !== null && answer.headers.get('content-encoding') === null
    return known ? Number(length) : (await fetchWhole(path)).length
  }
  return {
    name: url.pathname,
    async open(path: string) {
      const size = PLAIN.test(path) ? await sizeOf(path) : undefined
      if (size === undefined) return undefined
      const name = `${url.pathname}${path}`
      return {
        name,
        size,
        async read(offset: number, length: number): Promise<Uint8Array<ArrayBuffer>> {
          const bytes = await fetchWhole(path)
          if (offset < 0 || length < 0 || offset + length > Math.min(size, bytes.length)) {
            throw new RangeError(`${name}: bytes ${offset}..${offset + length} are outside the file of ${size} bytes`)
          }
          return bytes.subarray(offset, offset + length)
        },
        async close(): Promise<void> {},
      }
    },
    /** Gives the memory back; what is read again is fetched again. */
    forget(): void {
      kept.clear()
    },
  }
}
