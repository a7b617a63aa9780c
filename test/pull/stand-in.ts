// A stand-in of the Hub's HTTP interface: revision and tree API with pages, resolve with a redirect to a CDN on another
// port, Range, ETag, and whatever a test makes it do wrong.
import { createHash } from 'node:crypto'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

export type Kind = 'revision' | 'tree' | 'resolve' | 'cdn'

export interface Seen {
  readonly kind: Kind
  readonly url: string
  readonly authorization: string | undefined
  readonly range: string | undefined
}

/** Answers in the stand-in's place where it returns true. `nth`: 0 for the first request of this kind. */
export type Intercept = (
  kind: Kind,
  request: IncomingMessage,
  response: ServerResponse,
  nth: number,
) => boolean | Promise<boolean>

export interface TreeEntry {
  type: string
  path: string
  size: number
  oid?: string
  lfs?: { oid: string; size: number; pointerSize: number }
}

export interface StandIn extends AsyncDisposable {
  readonly url: string
  readonly cdnUrl: string
  readonly seen: Seen[]
  /** Revision → commit. */
  readonly revisions: Map<string, string>
  /** Commit → its files. */
  readonly commits: Map<string, Record<string, Uint8Array>>
  /** What the tree lists, where a test changes it. */
  listing: (entries: TreeEntry[]) => unknown
  intercept: Intercept
  /** Where not undefined, whoever lacks it gets 401. */
  token: string | undefined
  /** Most transfers at one time. */
  mostAtOnce: number
}

export const REPO = 'acme/tiny-llama'
const PAGE = 3

export const sha256 = (bytes: Uint8Array) => createHash('sha256').update(bytes).digest('hex')
export const gitSha1 = (bytes: Uint8Array) =>
  createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex')
export const isLfs = (path: string) => /\.(safetensors|gguf|onnx|model)$/.test(path)

export function entryOf(path: string, bytes: Uint8Array): TreeEntry {
  if (!isLfs(path)) return { type: 'file', path, size: bytes.length, oid: gitSha1(bytes) }
  const pointer = new TextEncoder().encode(
    `version https://git-lfs.github.com/spec/v1\noid sha256:${sha256(bytes)}\nsize ${bytes.length}\n`,
  )
  const lfs = { oid: sha256(bytes), size: bytes.length, pointerSize: pointer.length }
  return { type: 'file', path, size: bytes.length, oid: gitSha1(pointer), lfs }
}

export async function startStandIn(files: Record<string, Uint8Array>, commit = 'a'.repeat(40)): Promise<StandIn> {
  const counts: Record<Kind, number> = { revision: 0, tree: 0, resolve: 0, cdn: 0 }
  let atOnce = 0
  const server = createServer((request, response) => void answer(request, response))
  const cdn = createServer((request, response) => void answer(request, response))
  const [url, cdnUrl] = await Promise.all([listen(server), listen(cdn)])

  const standIn: StandIn = {
    url,
    cdnUrl,
    seen: [],
    revisions: new Map([['main', commit]]),
    commits: new Map([[commit, files]]),
    listing: (entries) => entries,
    intercept: () => false,
    token: undefined,
    mostAtOnce: 0,
    async [Symbol.asyncDispose]() {
      for (const one of [server, cdn]) {
        one.closeAllConnections()
        await new Promise((resolve) => one.close(resolve))
      }
    },
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams } = new URL(request.url!, url)
    const parts = pathname.split('/').filter((part) => part !== '')
    const kind = kindOf(parts)
    if (kind === undefined) return void response.writeHead(404).end()
    const { authorization, range } = request.headers
    standIn.seen.push({ kind, url: request.url!, authorization, range })
    if (await standIn.intercept(kind, request, response, counts[kind]++)) return
    if (kind === 'cdn') return send(request, response, searchParams.get('commit')!, searchParams.get('path')!)
    if (standIn.token !== undefined && authorization !== `Bearer ${standIn.token}`) {
      return void response.writeHead(401, { 'x-error-code': 'RepoNotFound' }).end()
    }
    const name = kind === 'resolve' ? parts.slice(0, 2) : parts.slice(2, 4)
    if (name.join('/') !== REPO) return void response.writeHead(404, { 'x-error-code': 'RepoNotFound' }).end()
    const revision = decodeURIComponent(parts[kind === 'resolve' ? 3 : 5] ?? '')
    const at = standIn.commits.has(revision) ? revision : standIn.revisions.get(revision)
    if (at === undefined) return void response.writeHead(404, { 'x-error-code': 'RevisionNotFound' }).end()
    if (kind === 'revision') return json(response, { _id: 'x', id: REPO, sha: at, private: false, likes: 0 })
    if (kind === 'tree') return tree(response, at, pathname, Number(searchParams.get('cursor') ?? 0))
    const path = parts.slice(4).map(decodeURIComponent).join('/')
    const bytes = standIn.commits.get(at)?.[path]
    if (bytes === undefined) return void response.writeHead(404, { 'x-error-code': 'EntryNotFound' }).end()
    if (!isLfs(path)) return send(request, response, at, path)
    // The signature is what a log must never hold.
    const location = `${cdnUrl}/cdn/blob?commit=${at}&path=${encodeURIComponent(path)}&Signature=signed-secret`
    response.writeHead(302, { location, 'x-linked-size': bytes.length, 'x-linked-etag': `"${sha256(bytes)}"` }).end()
  }

  function tree(response: ServerResponse, at: string, pathname: string, cursor: number): void {
    const entries = Object.entries(standIn.commits.get(at)!).map(([path, bytes]) => entryOf(path, bytes))
    const listed = standIn.listing(entries)
    if (!Array.isArray(listed)) {
      json(response, listed)
      return
    }
    const next = cursor + PAGE
    if (next < listed.length) {
      response.setHeader('link', `<${url}${pathname}?recursive=true&expand=false&cursor=${next}>; rel="next"`)
    }
    json(response, listed.slice(cursor, next))
  }

  function send(request: IncomingMessage, response: ServerResponse, at: string, path: string): void {
    const bytes = standIn.commits.get(at)![path]!
    const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? '')?.[1] ?? 0)
    atOnce += 1
    standIn.mostAtOnce = Math.max(standIn.mostAtOnce, atOnce)
    response.on('close', () => {
      atOnce -= 1
    })
    const part =
      request.headers.range === undefined
        ? {}
        : { 'content-range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` }
    response.writeHead(request.headers.range === undefined ? 200 : 206, {
      'content-length': bytes.length - from,
      'accept-ranges': 'bytes',
      etag: `"${sha256(bytes)}"`,
      ...part,
    })
    response.end(bytes.subarray(from))
  }
  return standIn
}

function kindOf(parts: readonly string[]): Kind | undefined {
  if (parts[0] === 'cdn') return 'cdn'
  if (parts[0] === 'api' && parts[4] === 'revision') return 'revision'
  if (parts[0] === 'api' && parts[4] === 'tree') return 'tree'
  return parts[2] === 'resolve' ? 'resolve' : undefined
}

export function json(response: ServerResponse, value: unknown): void {
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify(value))
}

function listen(server: Server): Promise<string> {
  return new Promise((resolve) =>
    server.listen(0, '127.0.0.1', () => resolve(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)),
  )
}
