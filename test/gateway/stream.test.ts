// Streams and metering: opened before dispatch, settled once, whatever ends them.
import { env } from 'cloudflare:workers'
import { drizzle } from 'drizzle-orm/d1'
import { beforeEach, describe, expect, it } from 'vitest'
import { loadPolicy } from '../../gateway/policy/load-policy.ts'
import { Ledger } from '../../gateway/usage/ledger.ts'
import { openMeter } from '../../gateway/usage/meter.ts'
import { createTail, MAX_TAIL_BYTES } from '../../gateway/usage/read-usage.ts'
import { adapter, allow, BASE, createHouse, digest, type House, NOW, seed, toTenant } from './house.ts'

let house: House
let key: { id: string; key: string }
beforeEach(async () => {
  house = await createHouse()
  await seed(house)
  await house.admin('PUT', '/tenants/acme/grants/red', allow(toTenant, adapter('red')))
  key = await house.mint('acme')
})

const rowOf = (requestId: string | null) =>
  env.DB.prepare('SELECT * FROM usage WHERE request_id = ?').bind(requestId).first<Record<string, unknown>>()

async function openStream(signal?: AbortSignal) {
  const { response, finish } = await house.open('/v1/completions', {
    method: 'POST',
    headers: { authorization: `Bearer ${key.key}`, 'content-type': 'application/json' },
    body: JSON.stringify({ model: 'red', prompt: 'x', stream: true }),
    ...(signal ? { signal } : {}),
  })
  const reader: ReadableStreamDefaultReader<Uint8Array> = response.body!.getReader()
  return { response, reader, finish, requestId: response.headers.get('x-request-id') }
}

describe('a stream', () => {
  it('passes as the bytes that the backend sent', async () => {
    const reply = await house.ask(key.key, 'red', { stream: true })
    expect(reply.headers.get('content-type')).toBe('text/event-stream')
    const events = reply.text.split('\n\n').filter(Boolean)
    expect(events.at(-1)).toBe('data: [DONE]')
    expect(events.slice(0, -1).map((event) => JSON.parse(event.slice(6)).choices[0].text)).toEqual([
      digest('1'),
      'é',
      '!',
    ])
  })

  it('is open while it runs and settled once it ends, with the tokens of its last chunk', async () => {
    const { reader, finish, requestId } = await openStream()
    await reader.read()
    expect(await rowOf(requestId)).toMatchObject({ status: 'open', prompt_tokens: null, settled_at: null })
    house.clock.now = NOW + 40
    while (!(await reader.read()).done);
    await finish()
    expect(await rowOf(requestId)).toMatchObject({
      status: 'settled',
      prompt_tokens: 7,
      completion_tokens: 3,
      ttft_ms: 0,
      settled_at: NOW + 40,
    })
  })

  it('stops the backend when the caller cancels, and bills what was generated', async () => {
    house.backend.fail('one.test', 'hang-mid-stream')
    const { reader, finish, requestId } = await openStream()
    await reader.read()
    await reader.read()
    await reader.cancel()
    await finish()
    expect(house.backend.seen[0]?.signal.aborted).toBe(true)
    expect(await rowOf(requestId)).toMatchObject({ status: 'aborted', completion_tokens: 2 })
  })

  it('stops the backend when the caller’s connection goes, with nobody reading', async () => {
    house.backend.fail('one.test', 'hang-mid-stream')
    const caller = new AbortController()
    const { reader, finish, requestId } = await openStream(caller.signal)
    await reader.read()
    caller.abort()
    await finish()
    expect(house.backend.seen[0]?.signal.aborted).toBe(true)
    expect(await rowOf(requestId)).toMatchObject({ status: 'aborted' })
  })

  it('settles as aborted where the caller goes before the first byte, and asks no reserve', async () => {
    await house.admin('PUT', '/backends/two', { url: 'http://two.test', base: BASE })
    for (const host of ['one.test', 'two.test']) house.backend.fail(host, 'hang-before-first-byte')
    const caller = new AbortController()
    const pending = openStream(caller.signal)
    while (house.backend.seen.length === 0) await new Promise((resolve) => setTimeout(resolve, 1))
    caller.abort()
    const { reader, finish, requestId } = await pending
    while (!(await reader.read()).done);
    await finish()
    expect(house.backend.seen).toHaveLength(1)
    expect(house.backend.seen[0]?.signal.aborted).toBe(true)
    expect(await rowOf(requestId)).toMatchObject({ status: 'aborted' })
    await house.admin('PUT', '/backends/two', { url: 'http://two.test', base: BASE, enabled: false })
  })

  it.each([
    ['reset-mid-stream', 2],
    ['hang-mid-stream', 2],
    ['end-without-done', 3],
    ['bad-sse', null],
  ] as const)(
    'that the backend spoils by %s ends with an error event, and bills what was seen',
    async (fault, tokens) => {
      house.backend.fail('one.test', fault)
      const reply = await house.ask(key.key, 'red', { stream: true })
      const last = reply.text.split('\n\n').filter(Boolean).at(-1) ?? ''
      if (fault === 'bad-sse') expect(last).toBe('data: [DONE]')
      else expect(JSON.parse(last.slice(6)).error.code).toBe('upstream_interrupted')
      expect(reply.text).not.toContain('internal-host')
      expect(await rowOf(reply.headers.get('x-request-id'))).toMatchObject({
        status: fault === 'bad-sse' ? 'settled' : 'failed',
        completion_tokens: tokens,
      })
    },
  )

  it('without usage is settled as unknown, not as zero, and logged', async () => {
    house.backend.fail('one.test', 'no-usage')
    for (const stream of [true, false]) {
      const reply = await house.ask(key.key, 'red', { stream })
      const requestId = reply.headers.get('x-request-id')
      expect(await rowOf(requestId)).toMatchObject({ status: 'settled', prompt_tokens: null, completion_tokens: null })
      expect(house.logged()).toContain(JSON.stringify({ event: 'usage.unknown', requestId, outcome: 'settled' }))
    }
  })
})

describe('the usage row', () => {
  const open = async (requestId: string) => {
    const db = drizzle(env.DB)
    const policy = (await loadPolicy(db, { kind: 'key', keyId: key.id }))?.policy
    const model = policy?.registry.models.get('red')
    if (!policy || model?.serves.kind !== 'target') throw new Error('not seeded')
    const choice = { model: 'red', target: model.serves.target, grantId: 'red', arm: null, exposure: null, shadows: [] }
    const bound = () => ({ promptTokens: 10, completionTokens: 10 })
    const now = () => NOW
    const ledger = new Ledger(env.DB, house.world.keeping, now)
    const books = { ledger, db, sql: env.DB, now, keep: () => {} }
    const meter = await openMeter(books, { policy, choice, requestId, bound, idempotent: null })
    if ('answer' in meter) throw new Error('nothing was asked before')
    return meter
  }

  it('is settled once, by whichever outcome comes first', async () => {
    const meter = await open('once')
    meter.settle('aborted', { promptTokens: 1, completionTokens: 2 })
    meter.settle('settled', { promptTokens: 9, completionTokens: 9 })
    await meter.written()
    meter.settle('failed', null)
    await meter.written()
    expect(await rowOf('once')).toMatchObject({ status: 'aborted', prompt_tokens: 1, completion_tokens: 2 })
  })

  it('is held to that by the database, and cannot be deleted', async () => {
    const meter = await open('held')
    meter.settle('settled', null)
    await meter.written()
    await expect(env.DB.prepare("UPDATE usage SET status = 'open' WHERE request_id = 'held'").run()).rejects.toThrow(
      'settled once',
    )
    await expect(env.DB.prepare("DELETE FROM usage WHERE request_id = 'held'").run()).rejects.toThrow('append-only')
  })

  it('is there before the backend is asked, so that nothing runs unrecorded', async () => {
    const broken = { ...env, DB: refusingInserts() }
    const reply = await house.call('POST', '/v1/completions', key.key, { model: 'red', prompt: 'x' }, broken)
    expect([reply.status, reply.json.error.code]).toEqual([503, 'database_unavailable'])
    expect(house.backend.seen).toHaveLength(0)
  })

  function refusingInserts() {
    return {
      prepare: (sql: string) => {
        if (sql.startsWith('insert into "usage"')) throw new Error('disk full')
        return env.DB.prepare(sql)
      },
      batch: (statements: D1PreparedStatement[]) => env.DB.batch(statements),
    }
  }
})

describe('the tail of a stream', () => {
  const encode = (text: string) => new TextEncoder().encode(text)
  const event = (completion: number) => `data: {"usage":{"prompt_tokens":1,"completion_tokens":${completion}}}`
  const read = (...parts: (string | Uint8Array)[]) => {
    const tail = createTail()
    for (const part of parts) tail.push(typeof part === 'string' ? encode(part) : part)
    return tail.read()
  }

  it('reads the last complete event, under each of the line ends that the format allows', () => {
    for (const eol of ['\n', '\r\n', '\r']) {
      const text = `${event(1)}${eol}${eol}${event(2)}${eol}${eol}data: [DONE]${eol}${eol}`
      expect(read(text)).toEqual({ tokens: { promptTokens: 1, completionTokens: 2 }, done: true })
    }
  })

  it('is the same however the bytes are cut, within a character too', () => {
    const bytes = encode(`data: {"text":"é🙂"}\n\n${event(5)}\n\n: comment é\n\ndata:[DONE]\n\n`)
    for (let cut = 0; cut <= bytes.length; cut++) {
      expect(read(bytes.slice(0, cut), bytes.slice(cut))).toEqual({
        tokens: { promptTokens: 1, completionTokens: 5 },
        done: true,
      })
    }
  })

  it('leaves out an event that is cut, and takes the one before', () => {
    expect(read(`${event(1)}\n\n${event(2).slice(0, -2)}`).tokens?.completionTokens).toBe(1)
    expect(read(`${event(1)}\n\n${event(22)}`).tokens?.completionTokens).toBe(1)
  })

  it('does not take negative, fractional or textual counts', () => {
    for (const count of ['-1', '1.5', '"1"', 'null', '1e999']) {
      expect(read(`data: {"usage":{"prompt_tokens":1,"completion_tokens":${count}}}\n\n`).tokens).toBeNull()
    }
  })

  it('holds a bounded number of bytes of a stream without end, and still finds the last count', () => {
    const filler = `${'data: {"x":1}'.padEnd(100, ' ')}\n\n`
    const tail = createTail()
    tail.push(encode(`${event(1)}\n\n`))
    for (let i = 0; i < (4 * MAX_TAIL_BYTES) / filler.length; i++) tail.push(encode(filler))
    expect(tail.read().tokens).toBeNull()
    for (let i = 0; i < 1000; i++) tail.push(encode(filler))
    tail.push(encode(`${event(9)}\n\n`))
    expect(tail.read().tokens?.completionTokens).toBe(9)
  })
})

describe('a slow reader', () => {
  it('holds back the backend: of a stream without end no more is read than was asked for, and a little', async () => {
    let sent = 0
    const chunk = new TextEncoder().encode(`data: ${JSON.stringify({ text: 'x'.repeat(1_000) })}\n\n`)
    const endless = new ReadableStream<Uint8Array>({
      pull(sink) {
        sent++
        sink.enqueue(chunk)
      },
    })
    const patient = await createHouse({
      fetch: async () => new Response(endless, { headers: { 'content-type': 'text/event-stream' } }),
    })
    const { response, finish } = await patient.open('/v1/completions', {
      method: 'POST',
      headers: { authorization: `Bearer ${key.key}`, 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'red', prompt: 'x', stream: true }),
    })
    const reader: ReadableStreamDefaultReader<Uint8Array> = response.body!.getReader()
    for (let read = 0; read < 3; read++) await reader.read()
    // Several times as long as the idle limit: a reader that is slow is no backend that hangs.
    await new Promise((resolve) => setTimeout(resolve, 5 * patient.world.timeouts.idleMs))
    expect(sent).toBeLessThanOrEqual(8)
    expect((await reader.read()).done).toBe(false)
    await reader.cancel()
    await finish()
    expect(await rowOf(response.headers.get('x-request-id'))).toMatchObject({ status: 'aborted' })
  })
})
