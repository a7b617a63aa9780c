// The Worker's own entry, with workerd's fetch and a backend behind it.
import { exports } from 'cloudflare:workers'
import { beforeAll, describe, expect, it } from 'vitest'
import { adapter, allow, createHouse, type House, seed, toTenant } from './house.ts'

describe('the Worker itself, over the real fetch', () => {
  let house: House
  let key: string
  beforeAll(async () => {
    house = await createHouse()
    await seed(house)
    await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
    key = (await house.mint('acme')).key
  })
  const ask = (path: string, body?: object) =>
    exports.default.fetch(
      new Request(`http://gateway.test${path}`, {
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        ...(body ? { method: 'POST', body: JSON.stringify(body) } : {}),
      }),
    )

  it('is healthy with a ready backend', async () => {
    const response = await exports.default.fetch(new Request('http://gateway.test/healthz'))
    expect([response.status, await response.text()]).toEqual([200, '{"status":"ok"}'])
  })

  it('relays a stream, without the backend’s headers, and settles it', async () => {
    const response = await ask('/v1/completions', { model: 'red', prompt: 'x', stream: true })
    expect(response.status).toBe(200)
    const text = await response.text()
    expect(text).toContain('"text":"two"')
    expect(text.endsWith('data: [DONE]\n\n')).toBe(true)
    expect(response.headers.get('set-cookie')).toBeNull()
    expect(response.headers.get('x-internal-host')).toBeNull()
    const receipt = response.headers.get('x-sidepath-receipt')
    await expect
      .poll(async () => (await house.admin('GET', `/receipts/${receipt}`)).json)
      .toMatchObject({ status: 'settled', promptTokens: 3, completionTokens: 2 })
  })

  it('takes an event stream for an answer to a plain request for a failure', async () => {
    const response = await ask('/v1/completions', { model: 'red', prompt: 'x' })
    expect([response.status, (await response.json<{ error: { code: string } }>()).error.code]).toEqual([
      502,
      'upstream_invalid',
    ])
  })

  it('lists what it would serve', async () => {
    const response = await ask('/v1/models')
    expect((await response.json<{ data: { id: string }[] }>()).data.map((model) => model.id)).toEqual(['red'])
  })
})
