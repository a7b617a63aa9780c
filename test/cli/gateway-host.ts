// The gateway on Node in this process: its own HTTP server, libSQL in a file, and a backend that a test makes up.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { SpanCounter } from '../../cli/gateway/count-spans.ts'
import { openLibsql } from '../../cli/gateway/libsql-database.ts'
import { readMigrations } from '../../cli/gateway/migrations.ts'
import { serveGateway } from '../../cli/gateway/serve-gateway.ts'
import { adminOf } from '../../cli/up/admin.ts'
import type { Bindings } from '../../gateway/config.ts'
import { applyMigrations } from '../../gateway/database/migrate.ts'
import { bootstrapAdminKey } from '../../gateway/identity/bootstrap.ts'
import { parsePeppers } from '../../gateway/identity/keys.ts'
import { realWorld } from '../../gateway/real-world.ts'

const BASE = 'b'.repeat(64)
const SECRETS = {
  ENVIRONMENT: 'test',
  PEPPERS: JSON.stringify({ current: '1', keys: { 1: randomBytes(32).toString('base64') } }),
  CAPABILITY_SECRET: randomBytes(32).toString('hex'),
}

/** Answers whole, with a few tokens. */
export const answerWhole: RequestListener = (_, response) => {
  const usage = { prompt_tokens: 7, completion_tokens: 3, total_tokens: 10 }
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify({ choices: [{ index: 0, text: 'well' }], usage }))
}

export interface Host {
  readonly url: string
  readonly adminKey: string
  readonly key: string
  readonly file: string
  readonly db: Awaited<ReturnType<typeof openLibsql>>['db']
  /** Requests that the backend was asked for. */
  asked(): number
  ask(body?: object, signal?: AbortSignal): Promise<Response>
  close(): Promise<void>
}

/** Tenant acme with a key, and model `red` on one backend that answers as `answer` does. */
export async function startHost(
  answer: RequestListener,
  options: { counter?: SpanCounter; bindings?: Partial<Bindings> } = {},
): Promise<Host> {
  const folder = await mkdtemp(join(tmpdir(), 'sidepath-host-'))
  const file = join(folder, 'gateway.db')
  let asked = 0
  const backend = createServer((request, response) => {
    if (request.url === '/readyz') {
      response.end(JSON.stringify({ ready: true, base: BASE, slots: 4, free: 4 }))
      return
    }
    asked += 1
    request.resume()
    request.on('end', () => answer(request, response))
  }).listen(0, '127.0.0.1')
  await once(backend, 'listening')
  const database = await openLibsql(`file:${file}`)
  await applyMigrations(database.db, await readMigrations())
  const peppers = parsePeppers(SECRETS.PEPPERS)
  if (peppers === null) throw new Error('the peppers of the test are not usable')
  const adminKey = await bootstrapAdminKey(database.db, { environment: 'test', peppers, now: Date.now() })
  const bindings = { ...SECRETS, ...options.bindings, DB: database.db } as Bindings
  // As the command has it by default.
  const keeping = { ...realWorld.keeping, beforeDispatch: true }
  const gateway = await serveGateway({ host: '127.0.0.1', port: 0, bindings, counter: options.counter, keeping })
  const admin = adminOf(gateway.url, adminKey)
  await admin.put(`bases/${BASE}`, {})
  await admin.put('backends/one', { url: `http://127.0.0.1:${(backend.address() as AddressInfo).port}`, base: BASE })
  await admin.put('tenants/acme', { maxTokens: 64 })
  await admin.put('tenants/acme/users/ada', {})
  await admin.put('tenants/acme/adapters/red', { name: 'red', version: 1, digest: '1'.repeat(64), base: BASE })
  await admin.put('tenants/acme/models/red', { adapter: 'red' })
  const resource = { kind: 'adapter', id: 'red' }
  await admin.put('tenants/acme/grants/red', { effect: 'allow', principal: { kind: 'tenant' }, resource })
  const key = await admin.mintKey('acme', 'ada')
  return {
    url: gateway.url,
    adminKey,
    key,
    file,
    db: database.db,
    asked: () => asked,
    ask: (body = {}, signal) =>
      fetch(`${gateway.url}/v1/completions`, {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        body: JSON.stringify({ model: 'red', prompt: 'x', ...body }),
        ...(signal && { signal }),
      }),
    async close() {
      backend.closeAllConnections()
      await gateway.close()
      backend.close()
      database.close()
      await rm(folder, { recursive: true })
    },
  }
}
