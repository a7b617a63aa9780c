// `sidepath gateway` as its users run it: a process, its environment, real HTTP.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest'

const BASE = 'b'.repeat(64)
const DIGEST = '1'.repeat(64)
const SECRETS = {
  SIDEPATH_PEPPERS: JSON.stringify({ current: '1', keys: { 1: btoa('a-pepper-of-tests-0123456789abcdef') } }),
  SIDEPATH_CAPABILITY_SECRET: 'a-capability-secret-of-tests-0123456789',
  SIDEPATH_ENVIRONMENT: 'test',
}

let folder: string
const running: ChildProcess[] = []
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sidepath-gateway-'))
})
afterEach(() => {
  for (const child of running.splice(0)) child.kill('SIGKILL')
})
afterAll(() => rm(folder, { recursive: true }))

const start = (args: readonly string[], secrets: object = SECRETS) => run('gateway', args, secrets)

function run(verb: string, args: readonly string[], secrets: object) {
  const child = spawn(process.execPath, ['cli/bin.js', verb, ...args], { env: { ...process.env, ...secrets } })
  running.push(child)
  let [out, err] = ['', '']
  child.stdout.on('data', (chunk) => (out += chunk))
  child.stderr.on('data', (chunk) => (err += chunk))
  return {
    child,
    ended: once(child, 'close').then(([code]) => ({ code, out, err })),
    said: (what: RegExp) => expect.poll(() => out, { timeout: 20_000 }).toMatch(what),
    lines: () => out,
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  await new Promise((resolve) => server.close(resolve))
  return port
}

describe('sidepath gateway', () => {
  it('names every secret that is missing or of no use, and opens no port', async () => {
    const { code, out, err } = await start(['--database', join(folder, 'a.db')], {
      SIDEPATH_CAPABILITY_SECRET: 'short',
      SIDEPATH_COMPILER_URL: 'http://127.0.0.1:1',
    }).ended
    expect([code, out]).toEqual([1, ''])
    for (const line of [
      'SIDEPATH_PEPPERS is not set',
      'SIDEPATH_CAPABILITY_SECRET is not usable',
      'SIDEPATH_ENVIRONMENT is not set',
      'SIDEPATH_COMPILER_TOKEN is not set',
    ]) {
      expect(err).toContain(line)
    }
    expect(err).not.toContain('short')
  })

  it('says which database cannot be opened, without the password in its address', async () => {
    const broken = join(folder, 'broken.db')
    await writeFile(broken, 'this is no database, whatever its name says; it is long enough to be looked at')
    expect(await start(['--database', broken]).ended).toMatchObject({ code: 1, err: expect.stringContaining(broken) })
    const remote = await start(['--database', 'http://ada:hunter2@127.0.0.1:9/']).ended
    expect(remote.code).toBe(1)
    expect(remote.err).toContain('--database "http://127.0.0.1:9" cannot be opened')
    expect(remote.err).not.toContain('hunter2')
    expect(await readFile(broken, 'utf8')).toContain('this is no database')
  })

  it('serves what a backend answers to those who may ask, keeps it over kill -9, and ends in good order', async () => {
    const database = join(folder, 'deep', 'gateway.db')
    const minted = await start(['--database', database, '--new-admin-key']).ended
    expect(minted).toMatchObject({ code: 0, err: '' })
    const admin = minted.out.trim()

    let hungUp = 0
    const asked: { model: unknown; authorization: string | undefined }[] = []
    const backend = createServer((request, response) => {
      if (request.url === '/readyz') {
        response.end(JSON.stringify({ ready: true, base: BASE, slots: 2, free: 2 }))
        return
      }
      let body = ''
      request.on('data', (chunk) => (body += chunk))
      request.on('end', () => {
        asked.push({ model: JSON.parse(body).model, authorization: request.headers.authorization })
        response.setHeader('content-type', 'text/event-stream')
        const usage = { prompt_tokens: 3, completion_tokens: 1, total_tokens: 4 }
        response.write(`data: ${JSON.stringify({ choices: [{ index: 0, text: 'one' }], usage })}\n\n`)
        response.once('close', () => (hungUp += response.writableEnded ? 0 : 1))
        if (!body.includes('forever')) response.end('data: [DONE]\n\n')
      })
    })
    backend.listen(0, '127.0.0.1')
    await once(backend, 'listening')

    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const call = (method: string, path: string, key: string, body?: object) =>
      fetch(`${url}${path}`, {
        method,
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        ...(body && { body: JSON.stringify(body) }),
      })
    let gateway = start(['--database', database, '--port', String(port)])
    await gateway.said(/gateway on http/)
    const seeding: [string, object][] = [
      [`/bases/${BASE}`, {}],
      ['/backends/one', { url: `http://127.0.0.1:${(backend.address() as AddressInfo).port}`, base: BASE }],
      ['/tenants/acme', { maxTokens: 64 }],
      ['/tenants/acme/adapters/red', { name: 'red', version: 1, digest: DIGEST, base: BASE }],
      ['/tenants/acme/models/red', { adapter: 'red' }],
      ['/tenants/acme/models/plain', { base: BASE }],
      [
        '/tenants/acme/grants/red',
        { effect: 'allow', principal: { kind: 'tenant' }, resource: { kind: 'adapter', id: 'red' } },
      ],
    ]
    for (const [path, body] of seeding)
      expect((await call('PUT', `/admin${path}`, admin, body)).status).toBeLessThan(300)
    const { key } = (await (await call('POST', '/admin/tenants/acme/keys', admin, {})).json()) as { key: string }

    gateway.child.kill('SIGKILL')
    await gateway.ended
    gateway = start(['--database', database, '--port', String(port)])
    await gateway.said(/gateway on http/)
    expect((await fetch(`${url}/healthz`)).status).toBe(200)

    const answer = await call('POST', '/v1/completions', key, { model: 'red', prompt: 'x', stream: true })
    expect(await answer.text()).toContain('"text":"one"')
    expect(asked).toEqual([{ model: undefined, authorization: expect.stringMatching(/^Bearer eyJ/) }])
    expect(JSON.stringify(asked)).not.toContain(key)
    const refused = await call('POST', '/v1/completions', key, { model: 'plain', prompt: 'x' })
    const unknown = await call('POST', '/v1/completions', key, { model: 'nothing', prompt: 'x' })
    expect([refused.status, await refused.text()]).toEqual([404, await unknown.text()])

    // The same question of `sidepath can`, which never shows the key.
    const can = (args: readonly string[], secrets: object = { SIDEPATH_ADMIN_KEY: admin }) =>
      run('can', [...args, '--gateway', url], secrets).ended
    const [yes, no] = [await can([key, 'red']), await can([key.split('_')[2] ?? '', 'plain'])]
    expect([yes.code, yes.err, no.code, no.err]).toEqual([0, '', 3, ''])
    expect(yes.out).toMatch(/may infer red[\s\S]+red +red +yes +allowed by grant red/)
    expect(no.out).toMatch(/may not infer plain[\s\S]+no +not-granted/)
    expect(yes.out).not.toContain(key)
    expect((await can([key, 'red', '--action', 'train'])).code).toBe(3)
    for (const [args, secrets, said] of [
      [['x', 'red'], undefined, 'is no key and no id of one'],
      [[key, 'red', '--action', 'fly'], undefined, 'there are infer, list'],
      [[key, 'red'], { SIDEPATH_ADMIN_KEY: '' }, 'SIDEPATH_ADMIN_KEY is not set'],
      [[key, 'red'], { SIDEPATH_ADMIN_KEY: key }, 'did not answer'],
      [['0'.repeat(16), 'red'], undefined, 'knows no user key'],
    ] as const) {
      const reply = await can(args, secrets)
      expect([reply.code, reply.out, reply.err.includes(said)]).toEqual([1, '', true])
      expect(reply.err).not.toContain(key)
    }

    const leaving = new AbortController()
    const left = await fetch(`${url}/v1/completions`, {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'red', prompt: 'forever', stream: true }),
      signal: leaving.signal,
    })
    await left.body?.getReader().read()
    leaving.abort()
    await expect.poll(() => hungUp, { timeout: 10_000 }).toBe(1)
    const receiptLeft = left.headers.get('x-sidepath-receipt')
    await expect
      .poll(async () => (await call('GET', `/admin/receipts/${receiptLeft}`, admin)).json(), { timeout: 10_000 })
      .toMatchObject({ status: 'aborted', completionTokens: 1 })

    gateway.child.kill('SIGTERM')
    expect(await gateway.ended).toMatchObject({ code: 0, err: '' })
    expect(gateway.lines()).not.toContain(key)
    const again = start(['--database', database, '--port', String(port)])
    await again.said(/gateway on http/)
    const receipt = answer.headers.get('x-sidepath-receipt')
    expect(await (await call('GET', `/admin/receipts/${receipt}`, admin)).json()).toMatchObject({
      status: 'settled',
      completionTokens: 1,
    })
    backend.close()
  }, 60_000)
})
