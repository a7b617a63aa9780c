// An adapter of a page → a job of the compiler service: what it lacks is uploaded by content, and the recipe names it all.
import { createHash } from 'node:crypto'
import type { Published } from '../../console/contract.ts'
import { JobSummary, paths, type Recipe } from '../../jobs/contract.ts'
import { digestFile, type ServedBase, streamOf } from './base-files.ts'

export interface CompilerAccess {
  /** Origin of a `sidepath compiler`. */
  readonly url: string
  readonly token: string
}

type Body = string | Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array>

/** What the page is told, with the status of the answer. */
export class PublishError extends Error {
  override readonly name = 'PublishError'
  readonly status: 400 | 404 | 502

  constructor(status: 400 | 404 | 502, message: string) {
    super(message)
    this.status = status
  }
}

export async function publish(
  access: CompilerAccess,
  base: ServedBase,
  name: string,
  files: ReadonlyMap<string, Uint8Array<ArrayBuffer>>,
): Promise<Published> {
  const baseFiles: Record<string, string> = {}
  for (const file of base.files) {
    const digest = await digestFile(base, file)
    baseFiles[file] = digest
    if (await has(access, digest)) continue
    const source = await base.folder.open(file)
    if (source !== undefined) await put(access, digest, streamOf(source))
  }
  const adapterFiles: Record<string, string> = {}
  for (const [file, bytes] of files) {
    const digest = createHash('sha256').update(bytes).digest('hex')
    adapterFiles[file] = digest
    if (!(await has(access, digest))) await put(access, digest, bytes)
  }
  const recipe: Recipe = { target: 'routed', base: baseFiles, adapters: [{ name, weight: 1, files: adapterFiles }] }
  return described(access, await ask(access, 'POST', paths.jobs, JSON.stringify(recipe), 'application/json'))
}

export async function published(access: CompilerAccess, job: string): Promise<Published> {
  return described(access, await ask(access, 'GET', paths.job(job)))
}

async function described({ url }: CompilerAccess, answer: Response): Promise<Published> {
  const { id, state, artifact, failure } = JobSummary.loose().parse(await answer.json())
  return {
    job: id,
    state,
    manifest: artifact === null ? null : `${url}${paths.artifact(artifact, 'manifest.json')}`,
    problems: failure === null ? [] : [failure.message, ...failure.problems.map(({ message }) => message)],
  }
}

async function has(access: CompilerAccess, digest: string): Promise<boolean> {
  const answer = await call(access, 'HEAD', paths.blob(digest))
  return answer.ok
}

async function put(access: CompilerAccess, digest: string, body: Body): Promise<void> {
  const answer = await ask(access, 'PUT', paths.blob(digest), body, 'application/octet-stream')
  await answer.body?.cancel()
}

/** Throws `PublishError` where it is no success, with what the compiler says. */
async function ask(access: CompilerAccess, method: string, path: string, body?: Body, type?: string) {
  const answer = await call(access, method, path, body, type)
  if (answer.ok) return answer
  const json = (await answer.json().catch(() => undefined)) as { error?: { message?: unknown } } | undefined
  const message = typeof json?.error?.message === 'string' ? json.error.message : `HTTP status ${answer.status}`
  throw new PublishError(502, `the compiler at ${access.url} refused: ${message}`)
}

async function call({ url, token }: CompilerAccess, method: string, path: string, body?: Body, type?: string) {
  const headers = { authorization: `Bearer ${token}`, ...(type && { 'content-type': type }) }
  const request = { method, headers, ...(body !== undefined && { body, duplex: 'half' as const }) }
  return fetch(new URL(path, url), request).catch(() => {
    throw new PublishError(502, `the compiler at ${url} does not answer; start sidepath compiler there`)
  })
}
