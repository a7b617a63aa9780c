// A gateway with a clock and a backend of its own, and two tenants seeded through the admin API.
import { createExecutionContext, waitOnExecutionContext } from 'cloudflare:test'
import { env } from 'cloudflare:workers'
import { vi } from 'vitest'
import { createApp } from '../../gateway/app.ts'
import type { Timeouts, World } from '../../gateway/context.ts'
import { bootstrapAdminKey } from '../../gateway/identity/bootstrap.ts'
import { parsePeppers } from '../../gateway/identity/keys.ts'
import { createFakeBackend } from './fake-backend.ts'

export const BASE = 'b'.repeat(64)
export const digest = (char: string) => char.repeat(64)
export const NOW = 1_790_000_000_000

type Row = Readonly<Record<string, unknown>>

/** What tests look at in a JSON answer; which of it is there is what they assert. */
interface Answer extends Row {
  readonly error: { readonly code: string; readonly param: string | null; readonly type: string }
  readonly data: readonly Row[]
  readonly choices: readonly [{ readonly text: string }]
  readonly id: string
  readonly key: string
  readonly targets: readonly [{ readonly decision: unknown }]
}

export interface Reply {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  readonly json: Answer
}

/** What is to be otherwise than quick and well, and bindings beside those that every test has. */
interface Options extends Partial<Omit<World, 'timeouts'>> {
  readonly bindings?: Readonly<Record<string, unknown>>
  readonly timeouts?: Partial<Timeouts>
}

export async function createHouse({ bindings: more = {}, timeouts, ...other }: Options = {}) {
  const peppers = parsePeppers(env.PEPPERS)
  if (peppers === null) throw new Error('the test peppers are not usable')
  const output = vi.spyOn(console, 'log').mockImplementation(() => {})
  output.mockClear()
  /** Every line that was logged since the house was made. */
  const logged = (): string[] => output.mock.calls.map(([line]) => String(line))
  const backend = createFakeBackend()
  const clock = { now: NOW }
  const world = {
    fetch: backend.fetch,
    now: () => clock.now,
    timeouts: { connectMs: 25, firstByteMs: 50, idleMs: 30, wholeAnswerMs: 50, readinessMs: 50, ...timeouts },
    // What a test looks at next is in the database then.
    keeping: { lingerMs: 0, spareMs: 0, beforeDispatch: true },
    ...other,
  }
  const app = createApp(world)
  const adminKey = await bootstrapAdminKey(env.DB, { environment: 'test', peppers, now: NOW })

  /** The raw response; settle with `finish` after its body was read. */
  async function open(path: string, init: RequestInit = {}, bindings: object = { ...env, ...more }) {
    const context = createExecutionContext()
    const url = path.startsWith('http') ? path : `http://gateway.test${path}`
    // Node wants to be told that a streamed body goes only one way.
    const response = await app.fetch(new Request(url, { duplex: 'half', ...init } as RequestInit), bindings, context)
    return { response, finish: () => waitOnExecutionContext(context) }
  }

  async function call(
    method: string,
    path: string,
    key?: string | null,
    body?: unknown,
    bindings?: object,
  ): Promise<Reply> {
    const { response, finish } = await open(
      path,
      {
        method,
        headers: {
          ...(key ? { authorization: `Bearer ${key}` } : {}),
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      },
      bindings,
    )
    const text = await response.text()
    await finish()
    let json = {} as Answer
    try {
      json = JSON.parse(text)
    } catch {
      // Not JSON: an event stream.
    }
    return { status: response.status, headers: response.headers, text, json }
  }

  async function admin(method: string, path: string, body?: unknown): Promise<Reply> {
    const reply = await call(method, `/admin${path}`, adminKey, body)
    if (reply.status >= 400) throw new Error(`${method} ${path}: ${reply.status} ${reply.text}`)
    return reply
  }

  const mint = async (tenant: string, body: object = {}): Promise<{ id: string; key: string }> =>
    (await admin('POST', `/tenants/${tenant}/keys`, body)).json

  const ask = (key: string, model: string, more: object = {}) =>
    call('POST', '/v1/completions', key, { model, prompt: 'hi', ...more })

  const models = async (key: string): Promise<string[]> =>
    (await call('GET', '/v1/models', key)).json.data.map((model) => String(model.id))

  return { app, world, logged, backend, clock, peppers, adminKey, open, call, admin, mint, ask, models }
}

export type House = Awaited<ReturnType<typeof createHouse>>

export const allow = (principal: object, resource: object, more: object = {}) => ({
  effect: 'allow',
  principal,
  resource,
  ...more,
})
export const deny = (principal: object, resource: object, more: object = {}) => ({
  effect: 'deny',
  principal,
  resource,
  ...more,
})
export const adapter = (id: string) => ({ kind: 'adapter', id })
export const base = { kind: 'base', digest: BASE }
export const toTenant = { kind: 'tenant' }

/** Tenants acme and zeta, each with adapters red and blue and models of those names; acme also has the bare base. */
export async function seed(house: House): Promise<void> {
  const { admin } = house
  await admin('PUT', `/bases/${BASE}`, {})
  await admin('PUT', '/backends/one', { url: 'http://one.test', base: BASE })
  for (const [tenant, red, blue] of [
    ['acme', '1', '2'],
    ['zeta', '3', '4'],
  ] as const) {
    await admin('PUT', `/tenants/${tenant}`, { maxTokens: 64 })
    await admin('PUT', `/tenants/${tenant}/roles/staff`, {})
    await admin('PUT', `/tenants/${tenant}/users/ada`, { roles: ['staff'] })
    await admin('PUT', `/tenants/${tenant}/adapters/red`, { name: 'red', version: 1, digest: digest(red), base: BASE })
    await admin('PUT', `/tenants/${tenant}/adapters/blue`, {
      name: 'blue',
      version: 1,
      digest: digest(blue),
      base: BASE,
    })
    await admin('PUT', `/tenants/${tenant}/models/red`, { adapter: 'red' })
    await admin('PUT', `/tenants/${tenant}/models/blue`, { adapter: 'blue' })
  }
  await admin('PUT', '/tenants/acme/models/plain', { base: BASE })
  await admin('PUT', '/tenants/zeta/models/zeta-only', { adapter: 'red' })
}
