// What comes in is hostile until proven otherwise: credentials, uploads, recipes, and what is inside the files.
import { readdir } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { paths } from '../../jobs/contract.ts'
import {
  clientOf,
  type Reply,
  sha256,
  startService,
  type TestRecipe,
  type TestService,
  TINY,
  TOKEN,
  tiny,
  tinyRecipe,
} from './service.ts'

const MAX_BLOB_BYTES = 300_000
const BLOB_QUOTA_BYTES = 1_000_000

let at: TestService
beforeAll(async () => {
  at = await startService({ limits: { maxBlobBytes: MAX_BLOB_BYTES, blobQuotaBytes: BLOB_QUOTA_BYTES } })
})
afterAll(() => at.close())

const codeOf = async (answer: Reply) => {
  expect(answer.headers.get('x-request-id')).toMatch(/^[\w-]+$/)
  const { error } = await answer.json()
  expect(Object.keys(error)).toEqual(['message', 'type', 'param', 'code'])
  expect(JSON.stringify(error)).not.toContain(at.folder)
  return [answer.status, error.code]
}
const blobFiles = () => readdir(join(at.folder, 'blobs'))
const bytesOf = (length: number, fill: number) => new Uint8Array(length).fill(fill)

describe('the token', () => {
  test.each([undefined, '', 'x'.repeat(31), `${'x'.repeat(40)} `, `${'x'.repeat(40)}\n`, 'x'.repeat(513)])(
    '%j does not start the service',
    async (token) => {
      await expect(startService({ token: token as string, dataDir: at.folder })).rejects.toMatchObject({
        name: 'JobsError',
        code: 'config_invalid',
        message: expect.stringContaining('SIDEPATH_COMPILER_TOKEN'),
      })
    },
  )

  test('every route but health needs it, known or not, by every method', async () => {
    const { createApp } = await import('../../jobs/http/app.ts')
    const app = createApp({ board: {} as never, token: TOKEN, log: () => {}, now: () => 0 })
    const routes = app.routes.filter(({ method }) => method !== 'ALL').map(({ path }) => path)
    expect(routes.length).toBeGreaterThan(9)
    const known = routes.map((path) => path.replaceAll(/:\w+(\{.*\})?/g, 'a'.repeat(64)))
    for (const path of [...known, '/', '/v1', '/v1/other', '/healthz/', '/HEALTHZ', '/healthz%2f', '//healthz']) {
      for (const method of ['GET', 'HEAD', 'PUT', 'POST', 'DELETE', 'PATCH', 'OPTIONS']) {
        if (path === paths.health && (method === 'GET' || method === 'HEAD')) continue
        const answer = await app.request(path, { method })
        expect([method, path, answer.status]).toEqual([method, path, 401])
      }
    }
    expect((await app.request(paths.health)).status).toBe(200)
  })

  test.each([
    null,
    'other-token-of-the-compiler-0123456789abcdef',
    TOKEN.slice(0, -1),
    `${TOKEN}x`,
    TOKEN.toUpperCase(),
  ])('%j is not it', async (token) => {
    const other = clientOf(at.url, token)
    for (const [method, path] of [
      ['GET', paths.jobs],
      ['POST', paths.jobs],
      ['PUT', paths.blob(sha256(bytesOf(1, 1)))],
    ] as const) {
      const body = method === 'GET' ? undefined : bytesOf(1, 1)
      expect(await codeOf(await other.call(method, path, body))).toEqual([401, 'token_invalid'])
    }
    expect(await blobFiles()).toEqual([])
  })

  test('is in no log line', async () => {
    await at.call('GET', paths.jobs)
    expect(JSON.stringify(at.logged)).not.toContain(TOKEN)
  })
})

describe('an upload', () => {
  const digest = sha256(tiny.a['adapter_config.json']!)

  test('of other bytes than the name says leaves nothing', async () => {
    const answer = await at.call('PUT', paths.blob(digest), bytesOf(100, 7))
    expect(await codeOf(answer)).toEqual([400, 'blob_mismatch'])
    expect(await codeOf(await at.call('PUT', paths.blob(digest)))).toEqual([400, 'blob_mismatch'])
    expect(await blobFiles()).toEqual([])
  })

  test('at the cap is taken, and above it refused, announced or not', async () => {
    const full = bytesOf(MAX_BLOB_BYTES, 1)
    expect((await at.call('PUT', paths.blob(sha256(full)), full)).status).toBe(201)
    const over = bytesOf(MAX_BLOB_BYTES + 1, 1)
    expect(await codeOf(await at.call('PUT', paths.blob(sha256(over)), over))).toEqual([413, 'blob_too_large'])
    const stream = new ReadableStream({
      start(sink) {
        sink.enqueue(over)
        sink.close()
      },
    })
    const init = { method: 'PUT', body: stream, duplex: 'half' as const, headers: { authorization: `Bearer ${TOKEN}` } }
    const answer = (await fetch(at.url + paths.blob(sha256(over)), init)) as Reply
    expect(await codeOf(answer)).toEqual([413, 'blob_too_large'])
    expect(await blobFiles()).toEqual([sha256(full)])
    await at.call('DELETE', paths.blob(sha256(full)))
  })

  test('beyond the quota of all is refused until something is deleted; failed ones do not count', async () => {
    const blobs = [1, 2, 3].map((fill) => bytesOf(MAX_BLOB_BYTES, fill))
    for (const blob of blobs) expect((await at.call('PUT', paths.blob(sha256(blob)), blob)).status).toBe(201)
    for (let times = 0; times < 3; times += 1) {
      expect(await codeOf(await at.call('PUT', paths.blob(digest), bytesOf(90_000, 9)))).toEqual([400, 'blob_mismatch'])
    }
    const fourth = bytesOf(MAX_BLOB_BYTES, 4)
    expect(await codeOf(await at.call('PUT', paths.blob(sha256(fourth)), fourth))).toEqual([507, 'quota_exceeded'])
    await at.call('DELETE', paths.blob(sha256(blobs[0]!)))
    expect((await at.call('PUT', paths.blob(sha256(fourth)), fourth)).status).toBe(201)
    for (const blob of [...blobs.slice(1), fourth]) await at.call('DELETE', paths.blob(sha256(blob)))
  })

  test('that breaks off leaves nothing, and the name is free', async () => {
    const bytes = tiny.base['model.safetensors']!
    const { hostname, port } = new URL(at.url)
    const socket = connect(Number(port), hostname)
    socket.write(
      `PUT ${paths.blob(sha256(bytes))} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${TOKEN}\r\n` +
        `content-length: ${bytes.length}\r\n\r\n`,
    )
    await new Promise((resolve) => socket.write(bytes.subarray(0, 50_000), resolve))
    await expect.poll(blobFiles).toHaveLength(1)
    socket.destroy()
    await expect.poll(blobFiles).toEqual([])
    expect((await at.call('PUT', paths.blob(sha256(bytes)), bytes)).status).toBe(201)
  })

  test.each([
    'x',
    'A'.repeat(64),
    'a'.repeat(63),
    'a'.repeat(65),
    '..%2f..%2fetc%2fpasswd',
    `..%2f${'a'.repeat(61)}`,
    `${'a'.repeat(63)}%00`,
  ])('is not stored as %j', async (name) => {
    const [status] = await codeOf(await at.call('PUT', `/v1/blobs/${name}`, bytesOf(1, 1)))
    expect(status).toBe(400)
  })

  test('that claims an encoding is not decoded', async () => {
    const answer = await at.call('PUT', paths.blob(digest), bytesOf(10, 1), { 'content-encoding': 'gzip' })
    expect(await codeOf(answer)).toEqual([415, 'unsupported_media_type'])
  })
})

describe('a recipe', () => {
  let good: TestRecipe
  const changed = (change: (recipe: TestRecipe) => void) => {
    const recipe = structuredClone(good)
    change(recipe)
    return recipe
  }
  const digest = 'a'.repeat(64)
  beforeAll(async () => {
    good = await tinyRecipe(at)
  })

  test.each([
    '../config.json',
    '/etc/passwd',
    'sub/config.json',
    'config.json/..',
    'CONFIG.JSON',
    'config.json ',
    'config.json\n',
    '.config.json.partial',
    'C:\\config.json',
    'model-1-of-2.safetensors',
    'pytorch_model.bin',
    'constructor',
    '',
  ])('with a file called %j is refused', async (name) => {
    for (const recipe of [
      changed(({ base }) => Object.assign(base, { [name]: digest })),
      changed(({ adapters }) => Object.assign(adapters[0]!.files, { [name]: digest })),
    ]) {
      expect(await codeOf(await at.submit(recipe))).toEqual([400, 'request_invalid'])
    }
  })

  test.each([
    ['two adapters of one name', (recipe: TestRecipe) => Object.assign(recipe.adapters[1]!, { name: 'a' })],
    ['an adapter whose name is a path', (recipe: TestRecipe) => Object.assign(recipe.adapters[0]!, { name: '../a' })],
    ['an unknown target', (recipe: TestRecipe) => Object.assign(recipe, { target: 'shell' })],
    ['an unknown field', (recipe: TestRecipe) => Object.assign(recipe, { callback: 'http://x.test' })],
    ['a weight that is text', (recipe: TestRecipe) => Object.assign(recipe.adapters[0]!, { weight: '1' })],
    ['a digest that is none', (recipe: TestRecipe) => Object.assign(recipe.base, { 'config.json': 'x' })],
    ['no file', (recipe: TestRecipe) => Object.assign(recipe, { base: {} })],
  ])('with %s is refused', async (_, change) => {
    expect(await codeOf(await at.submit(changed(change)))).toEqual([400, 'request_invalid'])
  })

  test.each([
    '{',
    '',
    'null',
    '[]',
    '{"target":"merged","target":"routed"}',
    '{"__proto__":{}}',
    `{"target":"merged","base":{"__proto__":"${digest}"},"adapters":[]}`,
    `${'['.repeat(70)}${']'.repeat(70)}`,
    '{"target":"merged","base":{},"adapters":[{"name":"a","weight":1e999,"files":{}}]}',
    '\ufeff{}',
  ])('that is %j is refused', async (body) => {
    expect(await codeOf(await at.call('POST', paths.jobs, body))).toEqual([400, 'request_invalid'])
  })

  test('that is not UTF-8, not said to be JSON, or too large is refused', async () => {
    const json = { 'content-type': 'application/json' }
    expect(await codeOf(await at.call('POST', paths.jobs, bytesOf(4, 0xff), json))).toEqual([400, 'request_invalid'])
    expect(await codeOf(await at.call('POST', paths.jobs, bytesOf(4, 0x20)))).toEqual([415, 'unsupported_media_type'])
    const large = bytesOf(1024 * 1024 + 1, 0x20)
    expect(await codeOf(await at.call('POST', paths.jobs, large, json))).toEqual([413, 'request_too_large'])
  })

  test('of files that are not there says which', async () => {
    const recipe = changed(({ adapters }) => Object.assign(adapters[0]!.files, { 'adapter_config.json': digest }))
    const answer = await at.submit(recipe)
    expect(answer.status).toBe(400)
    expect((await answer.json()).error).toMatchObject({
      code: 'blob_missing',
      message: `upload these first: a/adapter_config.json (${digest})`,
    })
  })

  test('beyond the bound of the queue is refused with a time to come back', async () => {
    const none = await startService({ limits: { maxQueued: 0 } })
    const answer = await none.submit(await tinyRecipe(none))
    expect([answer.status, answer.headers.get('retry-after')]).toEqual([429, '5'])
    expect((await answer.json()).error).toMatchObject({ code: 'queue_full', type: 'rate_limit_error' })
    await none.close()
  })
})

describe('the inside of the files', () => {
  test('a truncated adapter and a foreign config fail the job with every problem, and no path of ours', async () => {
    const recipe = await tinyRecipe(at)
    const weights = tiny.a['adapter_model.safetensors']!
    const config = JSON.parse(new TextDecoder().decode(tiny.b['adapter_config.json']))
    recipe.adapters[0]!.files['adapter_model.safetensors'] = await at.upload(weights.subarray(0, weights.length - 100))
    recipe.adapters[1]!.files['adapter_config.json'] = await at.upload(
      new TextEncoder().encode(JSON.stringify({ ...config, r: -1 })),
    )
    const { id } = await (await at.submit(recipe)).json()
    const { state, failure } = await at.end(id)
    expect([state, failure?.code]).toEqual(['failed', 'input_invalid'])
    const all = failure!.problems.map(({ message }) => message).join('\n')
    expect(all).toContain('a/adapter_model.safetensors')
    expect(all).toContain('adapter "b": adapter_config.json')
    expect(JSON.stringify(failure)).not.toContain(at.folder)
    expect(await readdir(join(at.folder, 'artifacts'))).toEqual([])
    expect((await at.submit(recipe)).status).toBe(200)
  })

  test('an index that names files outside the recipe finds none', async () => {
    const index = { metadata: {}, weight_map: { 'model.embed_tokens.weight': `../../${TINY}/base/model.safetensors` } }
    const base = await at.uploadAll({
      'config.json': tiny.base['config.json']!,
      'model.safetensors.index.json': new TextEncoder().encode(JSON.stringify(index)),
    })
    const { id } = await (await at.submit({ target: 'merged', base, adapters: [] })).json()
    expect(await at.end(id)).toMatchObject({ state: 'failed', failure: { code: 'input_invalid' } })
  })

  test('an artifact that outgrows its quota is given up, and asked for again it runs again', async () => {
    const small = await startService({ limits: { artifactQuotaBytes: 50_000 } })
    const recipe = await tinyRecipe(small)
    const { id } = await (await small.submit(recipe)).json()
    expect(await small.end(id)).toMatchObject({ state: 'failed', failure: { code: 'quota_exceeded', problems: [] } })
    expect(await readdir(join(small.folder, 'artifacts'))).toEqual([])
    expect((await small.submit(recipe)).status).toBe(202)
    await small.end(id)
    await small.close()
  })

  test('a file that an unfinished job needs cannot be deleted', async () => {
    const recipe = await tinyRecipe(at, 'routed')
    const { id } = await (await at.submit(recipe)).json()
    const answer = await at.call('DELETE', paths.blob(recipe.base['config.json']!))
    expect(await codeOf(answer)).toEqual([409, 'blob_in_use'])
    expect(await at.end(id)).toMatchObject({ state: 'done' })
  })
})

describe('an artifact', () => {
  test('gives its manifest and what that lists, and nothing else', async () => {
    const { id } = await (await at.submit(await tinyRecipe(at, 'routed'))).json()
    const { artifact } = await at.end(id)
    for (const file of [
      '..%2f..%2fjobs',
      '..%2fmanifest.json',
      `..%2f..%2fjobs%2f${id}.json`,
      'adapters',
      'adapters%2f..%2fmanifest.json',
      'MANIFEST.JSON',
      'manifest.json%00',
      '__proto__',
      'constructor',
    ]) {
      const answer = await at.call('GET', `/v1/artifacts/${artifact}/${file}`)
      expect([file, ...(await codeOf(answer))]).toEqual([file, 404, 'not_found'])
    }
    const other = await at.call('GET', paths.artifact('b'.repeat(64), 'manifest.json'))
    expect(await codeOf(other)).toEqual([404, 'not_found'])
  })
})

test('an unknown error says nothing of its cause', async () => {
  const { createApp } = await import('../../jobs/http/app.ts')
  const secret = 'disk at /secret/place is on fire'
  const board = {
    get closed(): boolean {
      throw new Error(secret)
    },
  }
  const logged: object[] = []
  const app = createApp({ board: board as never, token: TOKEN, log: (event) => logged.push(event), now: () => 0 })
  const answer = await app.request(paths.jobs, { headers: { authorization: `Bearer ${TOKEN}` } })
  expect([answer.status, await answer.json()]).toEqual([
    500,
    { error: { message: 'internal error', type: 'server_error', param: null, code: 'internal_error' } },
  ])
  expect(JSON.stringify(logged)).not.toContain('/secret/place')
})
