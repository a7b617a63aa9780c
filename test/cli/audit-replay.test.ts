// `sidepath audit verify` and `sidepath replay` as their users run them, against a gateway on a real port.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest'
import { openLibsql } from '../../cli/gateway/libsql-database.ts'
import { readMigrations } from '../../cli/gateway/migrations.ts'
import { serveGateway } from '../../cli/gateway/serve-gateway.ts'
import type { Bindings } from '../../gateway/config.ts'
import { applyMigrations } from '../../gateway/database/migrate.ts'
import { bootstrapAdminKey } from '../../gateway/identity/bootstrap.ts'
import { parsePeppers } from '../../gateway/identity/keys.ts'
import { realWorld } from '../../gateway/real-world.ts'

const BASE = 'b'.repeat(64)
const PEPPERS = JSON.stringify({ current: '1', keys: { 1: btoa('a-pepper-of-tests-0123456789abcdef') } })

let folder: string
let database: Awaited<ReturnType<typeof openLibsql>>
let gateway: Awaited<ReturnType<typeof serveGateway>>
let admin: string
const backend = createServer((request, response) => {
  request.resume()
  request.on('end', () => {
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify({ choices: [{ text: 'x' }], usage: { prompt_tokens: 1, completion_tokens: 1 } }))
  })
})

beforeAll(async () => {
  vi.spyOn(console, 'log').mockImplementation(() => {})
  folder = await mkdtemp(join(tmpdir(), 'sidepath-'))
  database = await openLibsql(`file:${join(folder, 'gateway.db')}`)
  await applyMigrations(database.db, await readMigrations())
  const peppers = parsePeppers(PEPPERS)
  if (peppers === null) throw new Error('unusable')
  admin = await bootstrapAdminKey(database.db, { environment: 'test', peppers, now: Date.now() })
  const secrets = { PEPPERS, CAPABILITY_SECRET: 'a-capability-secret-of-tests-0123456789', ENVIRONMENT: 'test' }
  backend.listen(0, '127.0.0.1')
  const probe = createServer().listen(0, '127.0.0.1')
  await once(probe, 'listening')
  const { port } = probe.address() as AddressInfo
  await new Promise((resolve) => probe.close(resolve))
  const { keeping } = realWorld
  gateway = await serveGateway({
    host: '127.0.0.1',
    port,
    bindings: { ...secrets, DB: database.db } as Bindings,
    keeping,
  })
})
afterAll(async () => {
  await gateway.close()
  database.close()
  backend.close()
  await rm(folder, { recursive: true })
})

async function call(method: string, path: string, body: object, key = admin) {
  const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
  const response = await fetch(`${gateway.url}${path}`, { method, headers, body: JSON.stringify(body) })
  expect(response.status).toBeLessThan(300)
  return { json: (await response.json()) as Record<string, string>, headers: response.headers }
}

async function run(...args: string[]) {
  const env = { ...process.env, SIDEPATH_ADMIN_KEY: admin }
  const child = spawn(process.execPath, ['cli/bin.js', ...args], { env })
  let [out, err] = ['', '']
  child.stdout.on('data', (chunk) => (out += chunk))
  child.stderr.on('data', (chunk) => (err += chunk))
  const [code] = await once(child, 'close')
  return { code, out, err }
}

describe('sidepath replay', () => {
  it('replays a decision from a gateway, then from the saved file, names what changed and finds what was forged', async () => {
    await call('PUT', `/admin/bases/${BASE}`, {})
    const url = `http://127.0.0.1:${(backend.address() as AddressInfo).port}`
    await call('PUT', '/admin/backends/one', { url, base: BASE })
    await call('PUT', '/admin/tenants/acme', { maxTokens: 8 })
    await call('PUT', '/admin/tenants/acme/models/plain', { base: BASE })
    const grant = { effect: 'allow', principal: { kind: 'tenant' }, resource: { kind: 'base', digest: BASE } }
    await call('PUT', '/admin/tenants/acme/grants/all', grant)
    const { key } = (await call('POST', '/admin/tenants/acme/keys', {})).json
    const answer = await call('POST', '/v1/completions', { model: 'plain', prompt: 'x' }, key)
    const receipt = answer.headers.get('x-sidepath-receipt') ?? ''
    await call('PUT', '/admin/tenants/acme/grants/later', { ...grant, effect: 'deny' })

    const file = join(folder, 'receipt.json')
    const online = await run('replay', receipt, '--gateway', gateway.url, '--save', file)
    expect([online.code, online.err]).toEqual([0, ''])
    expect(online.out).toMatch(
      /got the base, by grant all\ndecided again: the same\nchanged since:\n {2}grant later is new/,
    )
    const offline = await run('replay', file, '--gateway', 'http://127.0.0.1:9')
    expect(offline).toEqual(online)

    await writeFile(file, (await readFile(file, 'utf8')).replace('"grantId":"all"', '"grantId":"other"'))
    const forged = await run('replay', file)
    expect([forged.code, forged.out.includes('its digest is not the receipt')]).toEqual([3, true])
    await writeFile(file, '{}')
    expect(await run('replay', file)).toMatchObject({ code: 1, err: expect.stringContaining('no record of a receipt') })
    const unknown = await run('replay', '0'.repeat(32), '--gateway', gateway.url)
    expect(unknown).toMatchObject({ code: 1, err: expect.stringContaining('knows no receipt') })
  })
})

describe('sidepath audit verify', () => {
  it('follows the chain, and names the first row that was changed or cut off', async () => {
    const verify = (...more: string[]) => run('audit', 'verify', '--gateway', gateway.url, ...more)
    const intact = await verify()
    expect([intact.code, intact.err]).toEqual([0, ''])
    const [, rows, head] = /^intact: (\d+) rows, head (\d+:[0-9a-f]{64})\n$/.exec(intact.out) ?? []
    expect(head?.startsWith(`${rows}:`)).toBe(true)
    expect((await verify('--expect', head ?? '')).code).toBe(0)
    expect(await verify('--expect', `9999:${'0'.repeat(64)}`)).toMatchObject({
      code: 3,
      out: expect.stringContaining('the trail ends before row 9999'),
    })
    expect(await verify('--expect', 'x')).toMatchObject({ code: 1, err: expect.stringContaining('is no head') })

    // As somebody would who has the file.
    await database.db.prepare('DROP TRIGGER audit_no_update').run()
    await database.db.prepare("UPDATE audit SET actor = 'nobody' WHERE id = 3").run()
    expect(await verify()).toEqual({
      code: 3,
      out: 'broken at row 3: what it says is not what was hashed; 2 rows before it are intact\n',
      err: '',
    })
  })
})
