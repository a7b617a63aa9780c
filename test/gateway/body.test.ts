// Request bodies: one meaning, known fields only, bounded.
import { beforeAll, describe, expect, it } from 'vitest'
import { MAX_BODY_BYTES } from '../../gateway/read-body.ts'
import { adapter, allow, createHouse, digest, type House, seed, toTenant } from './house.ts'

describe('the body of a request', () => {
  let house: House
  let key: string
  const post = (body: string, path = '/v1/completions') => house.call('POST', path, key, body)
  const codeOf = async (body: string) => {
    const { status, json } = await post(body)
    return [status, json.error?.code ?? null, json.error?.param ?? null]
  }
  beforeAll(async () => {
    house = await createHouse()
    await seed(house)
    await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
    key = (await house.mint('acme')).key
  })

  it('may not name the model twice, not even with an escaped letter or nested elsewhere', async () => {
    for (const body of [
      '{"model":"red","model":"blue","prompt":"x"}',
      '{"model":"red","prompt":"x","mod\\u0065l":"blue"}',
      '{"model":"red","prompt":"x","prompt":"y"}',
      '{"model":"red","prompt":"x","stream":true,"stream_options":{"include_usage":true,"include_usage":false}}',
    ]) {
      expect((await codeOf(body)).slice(0, 2), body).toEqual([400, 'invalid_json'])
    }
  })

  it('is read by the same parser that looks for duplicates, whatever the strings hold', async () => {
    for (const prompt of ['"model":"blue"', '\\"model\\":', '{"model":', '}}]]', '\\\\', 'é\u2028"a":"a":']) {
      const reply = await post(JSON.stringify({ prompt, model: 'red' }))
      expect(reply.status, prompt).toBe(200)
      expect(house.backend.seen.at(-1)?.body.prompt).toBe(prompt)
      expect(house.backend.seen.at(-1)?.claims.adapter).toBe(digest('1'))
    }
  })

  it('decides, and the query string, headers and other fields do not', async () => {
    const reply = await house.call('POST', '/v1/completions?model=blue&exp=1', key, { model: 'red', prompt: 'x' })
    expect(reply.json.choices[0].text).toBe(digest('1'))
    const { response, finish } = await house.open('/v1/completions', {
      method: 'POST',
      headers: {
        authorization: `Bearer ${key}`,
        'content-type': 'application/json',
        'x-model': 'blue',
        'x-sidepath-adapter': 'blue',
      },
      body: JSON.stringify({ model: 'red', prompt: 'x' }),
    })
    expect((await response.json<{ choices: { text: string }[] }>()).choices[0]?.text).toBe(digest('1'))
    await finish()
  })

  it.each([
    'adapter',
    'lora',
    'lora_id',
    'extra_body',
    'cache_salt',
    'api_base',
    'base_url',
    'user',
    '__proto__',
    'constructor',
  ])('may not hold %s, and is refused by that name', async (field) => {
    const [status, , param] = await codeOf(`{"model":"red","prompt":"x","${field}":"blue"}`)
    expect([status, param]).toEqual([400, field])
  })

  it('may not hold unknown fields deeper down either', async () => {
    expect(await codeOf('{"model":"red","prompt":"x","stream":true,"stream_options":{"x":1}}')).toEqual([
      400,
      'unknown_parameter',
      'stream_options.x',
    ])
    const reply = await post(
      '{"model":"red","messages":[{"role":"user","content":"x","name":"y"}]}',
      '/v1/chat/completions',
    )
    expect(reply.json.error.param).toBe('messages.0.name')
  })

  it('must be an object of the schema', async () => {
    for (const body of [
      '[]',
      '"x"',
      'null',
      '{}',
      '{"prompt":"x"}',
      '{"model":1,"prompt":"x"}',
      '{"model":["red"],"prompt":"x"}',
    ]) {
      expect((await post(body)).status, body).toBe(400)
    }
    expect((await codeOf('{"model":"red","prompt":"x","temperature":3}'))[2]).toBe('temperature')
    expect((await codeOf('{"model":"red","prompt":"x","stream_options":{"include_usage":true}}'))[2]).toBe(
      'stream_options',
    )
  })

  it('must be JSON in UTF-8, not nested without end', async () => {
    for (const body of ['', '{', '{"model":"red",}', "{'model':'red'}", `${'['.repeat(40)}${']'.repeat(40)}`]) {
      expect((await post(body)).status, body).toBe(400)
    }
    const { response, finish } = await house.open('/v1/completions', {
      method: 'POST',
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
      body: Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d),
    })
    expect(response.status).toBe(400)
    await response.text()
    await finish()
  })

  it('may be as large as the cap and not a byte larger, with or without a stated length', async () => {
    const around = JSON.stringify({ model: 'red', prompt: 'x' }).length
    const exact = JSON.stringify({ model: 'red', prompt: 'x'.repeat(MAX_BODY_BYTES - around + 1) })
    expect(exact.length).toBe(MAX_BODY_BYTES)
    // The contract's own bound on the prompt answers here: the body was read and parsed.
    expect((await codeOf(exact))[2]).toBe('prompt')
    expect((await codeOf(`${exact} `)).slice(0, 2)).toEqual([413, 'request_too_large'])
    const chunk = new TextEncoder().encode('x'.repeat(1 << 16))
    let sent = 0
    const endless = new ReadableStream<Uint8Array>({
      pull: (sink) => {
        sent += chunk.length
        sink.enqueue(chunk)
      },
    })
    const headers = { authorization: `Bearer ${key}`, 'content-type': 'application/json' }
    const { response, finish } = await house.open('/v1/completions', { method: 'POST', headers, body: endless })
    expect(response.status).toBe(413)
    expect(sent).toBeLessThan(2 * MAX_BODY_BYTES)
    await response.text()
    await finish()
  })

  it('must be declared as JSON', async () => {
    for (const [type, encoding] of [
      ['text/plain'],
      ['application/x-www-form-urlencoded'],
      ['application/json', 'gzip'],
    ]) {
      const { response, finish } = await house.open('/v1/completions', {
        method: 'POST',
        headers: {
          authorization: `Bearer ${key}`,
          'content-type': type ?? '',
          ...(encoding ? { 'content-encoding': encoding } : {}),
        },
        body: '{"model":"red","prompt":"x"}',
      })
      expect(response.status).toBe(415)
      await response.text()
      await finish()
    }
  })
})
