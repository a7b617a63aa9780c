// The server of the pages: what it serves, to whom, and what it does not.
import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { createConsole } from '../../cli/console/app.ts'
import { openBases } from '../../cli/console/base-files.ts'

const BASE = join(import.meta.dirname, '../../examples/demo/base')
const HERE = 'http://127.0.0.1:8790'

let folder: string
let app: Awaited<ReturnType<typeof createConsole>>
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sidepath-console-'))
  app = await createConsole({ bases: await openBases([`demo=${BASE}`]), sample: undefined, compiler: undefined })
})
afterAll(() => rm(folder, { recursive: true, force: true }))

it('isolates the page, and lets it load from its own server alone', async () => {
  const answer = await app.request(`${HERE}/train`)
  expect(answer.status).toBe(200)
  expect(answer.headers.get('cross-origin-opener-policy')).toBe('same-origin')
  expect(answer.headers.get('cross-origin-embedder-policy')).toBe('require-corp')
  const policy = answer.headers.get('content-security-policy') ?? ''
  expect(policy).toContain("default-src 'none'")
  expect(policy).not.toContain('unsafe-inline')
  expect(policy).not.toContain("'unsafe-eval'")
  expect(await answer.text()).not.toMatch(/https?:\/\/|<script>| on\w+=| style=/)
})

it('serves the files of a base, and no others', async () => {
  const config = await app.request(`${HERE}/bases/demo/config.json`)
  expect(((await config.json()) as { model_type: string }).model_type).toBe('llama')
  const head = await app.request(`${HERE}/bases/demo/model.safetensors`, { method: 'HEAD' })
  expect(head.headers.get('content-length')).toBe('6300112')
  const weights = await app.request(`${HERE}/bases/demo/model.safetensors`)
  expect((await weights.arrayBuffer()).byteLength).toBe(6_300_112)
  for (const path of [
    'demo/..%2f..%2fREADME.md',
    'demo/special_tokens_map.json',
    'other/config.json',
    'demo/',
    '../x',
  ]) {
    expect((await app.request(`${HERE}/bases/${path}`)).status).toBe(404)
  }
})

it('answers to no other name, and takes nothing from another page', async () => {
  expect((await app.request('http://evil.example:8790/setup.json')).status).toBe(403)
  const send = (headers: Record<string, string>) =>
    app.request(`${HERE}/publish?base=demo&name=a`, { method: 'POST', headers, body: new FormData() })
  expect((await send({ origin: 'http://evil.example' })).status).toBe(403)
  expect((await send({})).status).toBe(403)
  const own = await send({ origin: HERE })
  expect(own.status).toBe(404)
  expect(await own.json()).toEqual({
    error: { message: 'there is no compiler to publish to; start with --compiler' },
  })
})

it('refuses bases that it cannot serve by name', async () => {
  await expect(openBases(['demo'])).rejects.toThrow('--base "demo" is no NAME=PATH')
  await expect(openBases([`a b=${BASE}`])).rejects.toThrow('is no NAME=PATH')
  await expect(openBases([`a=${BASE}`, `a=${BASE}`])).rejects.toThrow('two bases are called "a"')
  await expect(openBases([`a=${folder}`])).rejects.toThrow('has no config.json')
  await writeFile(join(folder, 'config.json'), '{}')
  await symlink('/etc/passwd', join(folder, 'tokenizer.json'))
  await expect(openBases([`a=${folder}`])).rejects.toThrow(/link that leaves the folder/)
})
