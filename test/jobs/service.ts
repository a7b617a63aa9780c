// A compiler service over loopback with a folder of its own, and a client of it that says as little as it can.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Job, type JobSummary, paths } from '../../jobs/contract.ts'
import { type CompilerService, type ServeOptions, serve } from '../../jobs/serve.ts'

export const TOKEN = 'test-token-of-the-compiler-0123456789abcdef'
export const TINY = join(import.meta.dirname, '..', 'parity', 'oracle', 'tiny')

export type Files = Readonly<Record<string, Uint8Array>>

export interface Event {
  readonly event: string
  readonly data: JobSummary
}

/** What tests look at in a JSON answer; which of it is there is what they assert. */
interface Answer extends Job {
  readonly error: { readonly message: string; readonly type: string; readonly param: string; readonly code: string }
  readonly data: readonly JobSummary[]
}

export type Reply = Omit<Response, 'json'> & { json(): Promise<Answer> }

/** A client of the service at `url`. */
export function clientOf(url: string, token: string | null = TOKEN) {
  const call = async (
    method: string,
    path: string,
    body?: string | object,
    more: Record<string, string> = {},
  ): Promise<Reply> => {
    const isJson = body !== undefined && !(body instanceof Uint8Array) && typeof body === 'object'
    const answer = await fetch(url + path, {
      method,
      headers: {
        ...(token === null ? {} : { authorization: `Bearer ${token}` }),
        ...(body === undefined || body instanceof Uint8Array ? {} : { 'content-type': 'application/json' }),
        ...more,
      },
      ...(body === undefined
        ? {}
        : { body: isJson ? JSON.stringify(body) : (body as string | Uint8Array<ArrayBuffer>) }),
    })
    return answer as Reply
  }
  const upload = async (bytes: Uint8Array): Promise<string> => {
    const digest = sha256(bytes)
    const answer = await call('PUT', paths.blob(digest), bytes)
    if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`)
    return digest
  }
  const uploadAll = async (files: Files): Promise<Record<string, string>> => {
    const entries = Object.entries(files).map(async ([name, bytes]) => [name, await upload(bytes)])
    return Object.fromEntries(await Promise.all(entries))
  }
  const submit = (recipe: object) => call('POST', paths.jobs, recipe)
  const job = async (id: string): Promise<Job> => (await call('GET', paths.job(id))).json()
  async function* events(id: string): AsyncGenerator<Event> {
    const answer = await call('GET', paths.events(id))
    yield* parseEvents(answer.body!)
  }
  /** Resolves with the job once it is final. */
  const end = async (id: string): Promise<Job> => {
    for await (const _ of events(id));
    return job(id)
  }
  return { url, call, upload, uploadAll, submit, job, events, end }
}
export type Client = ReturnType<typeof clientOf>

async function* parseEvents(body: AsyncIterable<Uint8Array>): AsyncGenerator<Event> {
  const decoder = new TextDecoder()
  let text = ''
  for await (const chunk of body) {
    text += decoder.decode(chunk, { stream: true })
    const frames = text.split('\n\n')
    text = frames.pop() ?? ''
    for (const frame of frames) {
      const [, event, data] = /^event: (\w+)\ndata: (.*)$/.exec(frame) ?? []
      if (event !== undefined && data !== undefined) yield { event, data: JSON.parse(data) }
    }
  }
}

export interface TestService extends Client {
  readonly folder: string
  readonly service: CompilerService
  readonly logged: object[]
  close(): Promise<void>
}

export async function startService(options: Partial<ServeOptions> = {}): Promise<TestService> {
  const folder = options.dataDir ?? (await mkdtemp(join(tmpdir(), 'sidepath-jobs-')))
  const logged: object[] = []
  const log = (event: object) => void logged.push(event)
  const service = await serve({ dataDir: folder, token: TOKEN, port: 0, log, drainMs: 200, ...options })
  const close = async () => {
    await service.close()
    if (options.dataDir === undefined) await rm(folder, { recursive: true, force: true })
  }
  return { ...clientOf(service.url), folder, service, logged, close }
}

export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

function read(folder: string, names: readonly string[]): Record<string, Uint8Array> {
  return Object.fromEntries(names.map((name) => [name, new Uint8Array(readFileSync(join(TINY, folder, name)))]))
}

export const tiny = {
  base: read('base', ['config.json', 'generation_config.json', 'model.safetensors']),
  a: read('a', ['adapter_config.json', 'adapter_model.safetensors']),
  b: read('b', ['adapter_config.json', 'adapter_model.safetensors']),
}

export interface TestRecipe {
  target: string
  base: Record<string, string>
  adapters: { name: string; weight: number; files: Record<string, string> }[]
}

/** Uploads what a recipe of the tiny base and its adapters a and b needs. */
export async function tinyRecipe(client: Client, target = 'merged'): Promise<TestRecipe> {
  return {
    target,
    base: await client.uploadAll(tiny.base),
    adapters: [
      { name: 'a', weight: 1, files: await client.uploadAll(tiny.a) },
      { name: 'b', weight: target === 'merged' ? 0.5 : 1, files: await client.uploadAll(tiny.b) },
    ],
  }
}
