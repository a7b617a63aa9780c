// The backend's routes over loopback: who may, how much, and how it starts and ends.
import { cp, open } from 'node:fs/promises'
import { describe, expect, test } from 'vitest'
import { paths } from '../../gpu-backend/contract.ts'
import { serve } from '../../gpu-backend/serve.ts'
import { read, startBackend } from './backend.ts'
import { claimsOf, mint, SECRET } from './mint.ts'

const at = startBackend()

describe('limits', () => {
  test('max_tokens is cut to what the capability allows', async () => {
    const answer = await at.post(
      paths.completions,
      { prompt: 'In the', max_tokens: 50, temperature: 0 },
      { maxTokens: 2 },
    )
    expect((await read(answer)).usage.completion_tokens).toBe(2)
  })

  test.each([
    [{ prompt: 'x', model: 'y' }, 'model'],
    [{ prompt: 'x', logprobs: 21 }, 'logprobs'],
    [{ prompt: 'x', stream_options: { other: true } }, 'stream_options.other'],
    [{ prompt: 'x', temperature: 3 }, 'temperature'],
    [{ prompt: 'x', stop: 'y'.repeat(1_001) }, 'stop'],
    [{ prompt: [{}] }, 'prompt'],
    [{}, 'prompt'],
  ])('%j is refused by the name of its field', async (body, field) => {
    const answer = await at.post(paths.completions, body)
    expect(answer.status).toBe(400)
    const { error } = await read(answer)
    expect(error).toMatchObject({ type: 'invalid_request_error', param: field, code: 'request_invalid' })
    expect(error.message).toContain(`"${field}"`)
  })

  test('a body that is no JSON, no UTF-8 or too large is refused', async () => {
    expect((await at.post(paths.completions, '{')).status).toBe(400)
    expect((await at.call(paths.completions, { method: 'POST', body: Uint8Array.of(0xff) })).status).toBe(400)
    const large = await at.post(paths.completions, { prompt: 'x'.repeat(1_048_577) })
    expect([large.status, (await read(large)).error.code]).toEqual([413, 'request_too_large'])
  })

  test('a full queue says when to come back', async () => {
    const full = await serve({ artifact: at.demo.path, secret: SECRET, port: 0, log: () => {}, maxQueue: 0 })
    const authorization = `Bearer ${await mint(claimsOf(full.ready.base))}`
    const answer = await fetch(full.url + paths.completions, {
      method: 'POST',
      headers: { authorization },
      body: '{"prompt":"x"}',
    })
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([429, '1'])
    expect((await read(answer)).error).toMatchObject({ code: 'queue_full', type: 'rate_limit_error' })
    await full.close()
  })

  test('a prompt that is too long says how long', async () => {
    const { error } = await read(at.post(paths.completions, { prompt: '1'.repeat(600) }))
    expect(error).toMatchObject({ code: 'context_length_exceeded', message: expect.stringContaining('601 tokens') })
  })
})

describe('routes', () => {
  test('every one but the public two needs a capability, known or not', async () => {
    for (const path of [...Object.values(paths), '/', '/v1/models', '/metrics']) {
      if (path === paths.health || path === paths.ready) continue
      for (const method of ['GET', 'POST', 'DELETE']) {
        const answer = await fetch(at.backend.url + path, { method })
        expect(answer.status, `${method} ${path}`).toBe(401)
        expect((await read(answer)).error).toMatchObject({ type: 'authentication_error', code: 'capability_invalid' })
      }
    }
  })

  test('unknown ones are not found, and every answer has a request id', async () => {
    const answer = await at.call('/v1/models')
    expect([answer.status, (await read(answer)).error.code]).toEqual([404, 'route_not_found'])
    expect(answer.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/)
    const own = await at.call('/healthz', { headers: { 'x-request-id': 'mine-1' } })
    expect(own.headers.get('x-request-id')).toBe('mine-1')
    const bad = await at.call('/healthz', { headers: { 'x-request-id': 'a b' } })
    expect(bad.headers.get('x-request-id')).not.toBe('a b')
  })

  test('health and readiness say what a router needs', async () => {
    expect((await fetch(`${at.backend.url}${paths.health}`)).status).toBe(200)
    const ready = await (await fetch(`${at.backend.url}${paths.ready}`)).json()
    expect(ready).toEqual({ ready: true, base: at.demo.manifest.base.digest, slots: 8, free: 8 })
  })

  test('an adapter is loaded, listed and unloaded by who may', async () => {
    const adapter = at.demo.digest('clauses')
    const loaded = await read(at.post(paths.load, '', { act: 'load', adapter }))
    expect(loaded).toEqual({ digest: adapter, slot: expect.any(Number), loadedMs: expect.any(Number) })
    const list = async () => (await read(at.call(paths.adapters, { as: { act: 'admin' } }))).data
    expect(await list()).toContainEqual({ digest: adapter, slot: loaded.slot, pins: 0 })
    expect((await at.post(paths.unload, '', { act: 'admin', adapter })).status).toBe(200)
    expect((await list()).map(({ digest }) => digest)).not.toContain(adapter)
    expect((await at.post(paths.unload, '', { act: 'admin', adapter })).status).toBe(404)
    expect((await at.post(paths.load, '', { act: 'load', adapter: 'e'.repeat(64) })).status).toBe(404)
    expect((await at.post(paths.load, '', { act: 'load' })).status).toBe(400)
  })

  test.each([
    [paths.load, 'POST', 'infer'],
    [paths.unload, 'POST', 'load'],
    [paths.adapters, 'GET', 'infer'],
    [paths.chat, 'POST', 'admin'],
    [paths.completions, 'POST', 'load'],
  ] as const)('%s %s is not for a capability to %s', async (path, method, act) => {
    const answer = await at.call(path, { method, as: { act, adapter: at.demo.digest('dates') } })
    expect([answer.status, (await read(answer)).error.code]).toEqual([403, 'capability_scope'])
  })
})

describe('start and end', () => {
  test('a port in use is said so', async () => {
    const port = Number(new URL(at.backend.url).port)
    await expect(serve({ artifact: at.demo.path, secret: SECRET, port, log: () => {} })).rejects.toMatchObject({
      name: 'BackendError',
      code: 'port_in_use',
    })
  })

  test('without a secret nothing starts', async () => {
    await expect(serve({ artifact: at.demo.path, secret: '', port: 0 })).rejects.toMatchObject({
      code: 'config_invalid',
    })
  })

  test('an artifact with one changed byte is not served', async () => {
    const path = `${at.demo.path}-changed`
    await cp(at.demo.path, path, { recursive: true })
    const file = await open(`${path}/model.onnx_data`, 'r+')
    await file.write(Uint8Array.of(1), 0, 1, 1_000)
    await file.close()
    await expect(serve({ artifact: path, secret: SECRET, port: 0, log: () => {} })).rejects.toMatchObject({
      name: 'BackendError',
      code: 'artifact_unsuitable',
      message: expect.stringContaining('"model.onnx_data" is not the file that was compiled'),
    })
  })

  test('closing lets a stream finish and takes nothing new', async () => {
    const other = await serve({ artifact: at.demo.path, secret: SECRET, port: 0, log: () => {} })
    const authorization = `Bearer ${await mint(claimsOf(other.ready.base))}`
    const body = JSON.stringify({ prompt: 'In the', max_tokens: 30, seed: 1, stream: true })
    const answer = await fetch(other.url + paths.completions, { method: 'POST', headers: { authorization }, body })
    const closing = other.close()
    expect(await answer.text()).toContain('data: [DONE]')
    await closing
    await expect(fetch(other.url + paths.health)).rejects.toThrow()
  })

  test('closing does not wait for a stream for ever', async () => {
    const other = await serve({ artifact: at.demo.path, secret: SECRET, port: 0, log: () => {}, drainMs: 1 })
    const authorization = `Bearer ${await mint(claimsOf(other.ready.base))}`
    const body = JSON.stringify({ prompt: 'In the', max_tokens: 480, seed: 1, stream: true })
    const answer = await fetch(other.url + paths.completions, { method: 'POST', headers: { authorization }, body })
    await other.close()
    await expect(answer.text()).rejects.toThrow()
  })
})
