// A backend on the demo, over loopback, and ways to talk to it.
import { afterAll, beforeAll } from 'vitest'
import type { Capability } from '../../gpu-backend/contract.ts'
import { type Backend, serve } from '../../gpu-backend/serve.ts'
import { type Artifact, compileDemo } from './artifacts.ts'
import { claimsOf, mint, SECRET } from './mint.ts'

/** What an answer may hold, as far as the tests look at it. */
export interface Answer {
  error: { code: string; message: string; type: string; param: string | null }
  choices: { text: string; finish_reason: string }[]
  usage: { completion_tokens: number }
  data: { digest: string; slot: number; pins: number }[]
  slot: number
}

type Init = RequestInit & { as?: Partial<Capability> }

export interface TestBackend {
  readonly demo: Artifact
  readonly backend: Backend
  readonly logged: Readonly<Record<string, unknown>>[]
  capability(given?: Partial<Capability>): Promise<string>
  call(path: string, init?: Init): Promise<Response>
  post(path: string, body: unknown, as?: Partial<Capability>): Promise<Response>
}

/** Started before the tests of a file and closed after them. */
export function startBackend(): TestBackend {
  const started: { demo?: Artifact; backend?: Backend } = {}
  const logged: Readonly<Record<string, unknown>>[] = []
  beforeAll(async () => {
    started.demo = await compileDemo()
    started.backend = await serve({
      artifact: started.demo.path,
      secret: SECRET,
      port: 0,
      log: (event) => logged.push(event),
    })
  })
  afterAll(() => started.backend?.close())
  const at: TestBackend = {
    get demo() {
      return started.demo!
    },
    get backend() {
      return started.backend!
    },
    logged,
    capability: (given = {}) => mint(claimsOf(at.backend.ready.base, given)),
    async call(path, { as, ...init } = {}) {
      const headers = { authorization: `Bearer ${await at.capability(as)}`, ...init.headers }
      return fetch(at.backend.url + path, { ...init, headers })
    },
    post: (path, body, as = {}) =>
      at.call(path, { method: 'POST', body: typeof body === 'string' ? body : JSON.stringify(body), as }),
  }
  return at
}

export async function read(answer: Response | Promise<Response>): Promise<Answer> {
  return (await (await answer).json()) as Answer
}

export async function eventually<T>(look: () => T | undefined | Promise<T | undefined>): Promise<T> {
  for (;;) {
    const found = await look()
    if (found !== undefined) return found
    await new Promise((resolve) => setImmediate(resolve))
  }
}
