// `/v1/embeddings` over loopback through the real client, against transformers and PEFT (test/parity/embeddings-oracle.py).
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import OpenAI from 'openai'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { EncoderManifest } from '../../compiler/contract.ts'
import { type Capability, MAX_EMBEDDING_INPUTS, paths } from '../../gpu-backend/contract.ts'
import { Embedder, type EncoderRow } from '../../gpu-backend/encoder/embedder.ts'
import type { Adapters } from '../../gpu-backend/engine/engine.ts'
import { type Backend, serve } from '../../gpu-backend/serve.ts'
import { openFolder } from '../../runtime/disk.ts'
import { findModel } from '../../scripts/models.ts'
import { compileToDisk, ENCODERS, tinyAdapter, tinyPath, withFiles } from '../encoder/encoders.ts'
import { read } from './backend.ts'
import { claimsOf, mint, SECRET } from './mint.ts'

type Name = 'base' | 'narrow' | 'wide'

const oracle = JSON.parse(await readFile(join(ENCODERS, 'embeddings.json'), 'utf8')) as {
  tokenizer: object
  texts: string[]
  ids: number[][]
  vectors: Record<Name, number[][]>
}
const { texts, ids, vectors } = oracle
const WIDTH = vectors.base[0]!.length

const POOLED = withFiles(openFolder(tinyPath('bert')), {
  'modules.json': JSON.stringify(
    ['Transformer', 'Pooling', 'Normalize'].map((kind, idx) => ({
      idx,
      name: String(idx),
      path: idx === 0 ? '' : `${idx}_${kind}`,
      type: `sentence_transformers.models.${kind}`,
    })),
  ),
  '1_Pooling/config.json': JSON.stringify({ pooling_mode_mean_tokens: true }),
  'tokenizer.json': JSON.stringify(oracle.tokenizer),
  'tokenizer_config.json': '{}',
})
const adapters = [tinyAdapter('bert', 'narrow'), tinyAdapter('bert', 'wide')]

let made: Awaited<ReturnType<typeof compileToDisk>>
let backend: Backend
const logged: Readonly<Record<string, unknown>>[] = []
beforeAll(async () => {
  made = await compileToDisk(POOLED, adapters, 'routed')
  backend = await serve({ artifact: made.path, secret: SECRET, port: 0, slots: 1, log: (event) => logged.push(event) })
})
afterAll(async () => {
  await backend.close()
  await made[Symbol.asyncDispose]()
})

const digestOf = (manifest: EncoderManifest, name: Name): string | null =>
  manifest.adapters.find((adapter) => adapter.name === name)?.digest ?? null

async function clientOf(url: string, claims: Partial<Capability>): Promise<OpenAI> {
  return new OpenAI({
    apiKey: await mint(claimsOf(backend.ready.base, claims)),
    baseURL: `${url}/v1`,
    maxRetries: 0,
    fetch: (to, init) => {
      const { model: _, ...body } = JSON.parse(String(init?.body))
      return fetch(to, { ...init, body: JSON.stringify(body) } as RequestInit)
    },
  })
}
const client = (name: Name = 'base') =>
  clientOf(backend.url, { adapter: digestOf(made.manifest, name), model: 'vectors' })

async function post(body: object, claims: Partial<Capability> = {}): Promise<Response> {
  const authorization = `Bearer ${await mint(claimsOf(backend.ready.base, claims))}`
  return fetch(backend.url + paths.embeddings, {
    method: 'POST',
    headers: { authorization },
    body: JSON.stringify(body),
  })
}

function expectClose(found: readonly (readonly number[])[], expected: readonly (readonly number[])[]): void {
  expect(found).toHaveLength(expected.length)
  for (const [row, vector] of expected.entries()) {
    for (const [at, value] of vector.entries()) expect(found[row]![at]).toBeCloseTo(value, 5)
  }
}

describe('vectors', () => {
  test.each(['base', 'narrow', 'wide'] as const)('of texts with %s are those of the reference', async (name) => {
    const openai = await client(name)
    // The client asks for base64 and turns it into numbers.
    const found = await openai.embeddings.create({ model: '-', input: texts })
    expectClose(
      found.data.map(({ embedding }) => embedding),
      vectors[name],
    )
    expect(found.data.map(({ index, object }) => [index, object])).toEqual(
      texts.map((_, index) => [index, 'embedding']),
    )
    const tokens = ids.flat().length
    expect([found.object, found.model, found.usage]).toEqual([
      'list',
      'vectors',
      { prompt_tokens: tokens, total_tokens: tokens },
    ])
  })

  test('of a text, of its ids, and in decimal digits are the same', async () => {
    const ask = async (input: unknown, encoding_format = 'float') => {
      const answer = await post({ input, encoding_format })
      return ((await answer.json()) as { data: { embedding: number[] }[] }).data.map(({ embedding }) => embedding)
    }
    const [text, tokens, lists] = [await ask(texts[1]), await ask(ids[1]), await ask([ids[1], ids[0]])]
    expect(tokens).toEqual(text)
    expectClose(lists, [vectors.base[1]!, vectors.base[0]!])
    const answer = (await (await post({ input: texts[1], encoding_format: 'base64' })).json()) as {
      data: { embedding: string }[]
    }
    const bytes = Buffer.from(answer.data[0]!.embedding, 'base64')
    const numbers = Array.from({ length: WIDTH }, (_, at) => bytes.readFloatLE(at * 4))
    expect(text[0]!.map(Math.fround)).toEqual(numbers)
  })

  test('of adapters and of the base in the same moment are each their own, through one slot', async () => {
    const names = ['wide', 'base', 'narrow', 'wide', 'narrow', 'base'] as const
    const found = await Promise.all(
      names.map(async (name) => (await client(name)).embeddings.create({ model: '-', input: texts })),
    )
    for (const [at, name] of names.entries()) {
      expectClose(
        found[at]!.data.map(({ embedding }) => embedding),
        vectors[name],
      )
    }
  })

  test('of a mix are those of neither part', async () => {
    const half = (name: Name) => ({ digest: digestOf(made.manifest, name)!, weight: 0.5 })
    const config = { artifact: made.path, secret: SECRET, port: 0, bankRank: 64, log: () => {} }
    const wider = await serve(config)
    const openai = await clientOf(wider.url, { adapter: [half('narrow'), half('wide')] })
    const [mixed] = (await openai.embeddings.create({ model: '-', input: texts[0]! })).data
    for (const name of ['base', 'narrow', 'wide'] as const) {
      const apart = Math.hypot(...mixed!.embedding.map((value, at) => value - vectors[name][0]![at]!))
      expect(apart).toBeGreaterThan(1e-3)
    }
    await wider.close()
  })

  test('of as many texts as may be sent come in order', async () => {
    const many = Array.from({ length: MAX_EMBEDDING_INPUTS }, (_, at) => texts[at % texts.length]!)
    const openai = await client('wide')
    const { data } = await openai.embeddings.create({ model: '-', input: many })
    for (const [at, { embedding, index }] of data.entries()) {
      expect(index).toBe(at)
      expect(embedding[0]).toBeCloseTo(vectors.wide[at % texts.length]![0]!, 5)
    }
  })
})

describe('what is refused', () => {
  test.each([
    [{ input: '' }, 'input'],
    [{ input: [] }, 'input'],
    [{ input: [''] }, 'input'],
    [{ input: Array(MAX_EMBEDDING_INPUTS + 1).fill('a') }, 'input'],
    [{ input: [97] }, 'input'],
    [{ input: 'a', dimensions: WIDTH - 1 }, 'dimensions'],
    [{ input: 'a', encoding_format: 'int8' }, 'encoding_format'],
    [{ input: 'a', user: 'me' }, 'user'],
  ])('%j, by the name of its field', async (body, field) => {
    const answer = await post(body)
    expect([answer.status, (await read(answer)).error.param?.split('.')[0]]).toEqual([400, field])
  })

  test('a text of more tokens than the encoder was trained for', async () => {
    const { error } = await read(post({ input: ['a', 'g '.repeat(60)] }))
    expect(error).toMatchObject({ code: 'context_length_exceeded', message: expect.stringContaining('62 tokens') })
  })

  test('an adapter that is not there, and a capability for something else', async () => {
    expect((await post({ input: 'a' }, { adapter: 'e'.repeat(64) })).status).toBe(404)
    expect((await post({ input: 'a' }, { act: 'load' })).status).toBe(403)
  })

  test('text of an encoder, and vectors of an encoder that only classifies', async () => {
    const authorization = `Bearer ${await mint(claimsOf(backend.ready.base))}`
    const answer = await fetch(backend.url + paths.completions, {
      method: 'POST',
      headers: { authorization },
      body: JSON.stringify({ prompt: 'a', max_tokens: 1 }),
    })
    expect([answer.status, (await read(answer)).error.message]).toEqual([
      400,
      expect.stringContaining('generates none'),
    ])
    await using classifier = await compileToDisk(openFolder(tinyPath('bert-classifier')), [], 'routed')
    const started = serve({ artifact: classifier.path, secret: SECRET, port: 0, log: () => {} })
    await expect(started).rejects.toMatchObject({ code: 'artifact_unsuitable' })
  })
})

test('the log has what was embedded for whom, and none of it', () => {
  const line = logged.find(({ event }) => event === 'embedding')
  expect(line).toMatchObject({ tenant: 'acme', outcome: 'stop', texts: texts.length, promptTokens: ids.flat().length })
  for (const text of [texts[1], texts[3], texts[5]]) expect(JSON.stringify(logged)).not.toContain(text)
})

describe('shared runs', () => {
  /** A vector is the row's own first token, and 13 is no number. */
  function embedder(maxQueue = 10) {
    const runs: (readonly EncoderRow[])[] = []
    const run = async (rows: readonly EncoderRow[]) => {
      runs.push(rows)
      return rows.map(({ tokens }) => Float32Array.of(tokens[0] === 13 ? Number.NaN : tokens[0]!))
    }
    const pins: string[] = []
    const bank: Adapters = {
      free: 1,
      pin: (digest) => pins.push(`+${digest}`),
      release: (digest) => void pins.push(`-${digest}`),
      hostBytes: 0,
      prefetch() {},
      forget() {},
      load: async () => 1,
      unload() {},
      list: () => [],
    }
    return { runs, pins, made: new Embedder({ run, adapters: bank, slots: 1, maxQueue }) }
  }
  const requestOf = (rows: number[][], tenant = 'a', adapter: string | null = null) => ({ rows, tenant, adapter })

  test('one request of hundreds of texts lets another tenant’s single one in at once', async () => {
    const { made, runs } = embedder()
    const order: string[] = []
    const many = Array.from({ length: 400 }, () => Array<number>(30).fill(1))
    const long = made.embed(1, requestOf(many)).then(() => order.push('long'))
    const short = made.embed(2, requestOf([[7]], 'b')).then(() => order.push('short'))
    await Promise.all([long, short])
    expect(order).toEqual(['short', 'long'])
    expect(runs[0]!.some(({ tokens }) => tokens[0] === 7)).toBe(true)
    for (const rows of runs) {
      const padded = rows.length * Math.max(...rows.map(({ tokens }) => tokens.length))
      expect(padded).toBeLessThanOrEqual(1_024)
    }
  })

  test('numbers that are none end their request and no other, and every slot is released', async () => {
    const { made, pins } = embedder()
    const [bad, good] = await Promise.allSettled([
      made.embed(1, requestOf([[13], [1]], 'a', 'x')),
      made.embed(2, requestOf([[2]], 'b', 'x')),
    ])
    expect(bad).toMatchObject({ status: 'rejected', reason: { code: 'non_finite_logits' } })
    expect(good).toMatchObject({ status: 'fulfilled', value: [Float32Array.of(2)] })
    expect(pins.filter((pin) => pin === '+x')).toHaveLength(pins.filter((pin) => pin === '-x').length)
    expect(made.stats).toMatchObject({ rows: 0, queued: 0 })
  })

  test('a full queue refuses, and one that was aborted makes room', async () => {
    const { made } = embedder(1)
    const first = made.embed(1, requestOf([[1]]))
    await expect(made.embed(2, requestOf([[2]]))).rejects.toMatchObject({ code: 'queue_full' })
    made.abort(1)
    await expect(first).rejects.toThrow('aborted')
    expect(await made.embed(3, requestOf([[3]]))).toEqual([Float32Array.of(3)])
  })
})

const MINILM_TOKENS = 256
const minilm = findModel('minilm')
if (minilm === undefined) {
  process.stderr.write('SKIPPED: all-MiniLM-L6-v2 is not on this machine; run `node scripts/fetch-models.ts minilm`\n')
}

test.skipIf(minilm === undefined)(
  'all-MiniLM-L6-v2 gives the vectors of sentence-transformers for its texts',
  async () => {
    const expected = JSON.parse(await readFile(join(ENCODERS, 'minilm.json'), 'utf8')) as {
      sentences: string[]
      input_ids: number[][]
      embeddings: number[][]
    }
    await using real = await compileToDisk(openFolder(minilm!), [], 'routed')
    const served = await serve({ artifact: real.path, secret: SECRET, port: 0, log: () => {} })
    const openai = new OpenAI({
      apiKey: await mint(claimsOf(served.ready.base)),
      baseURL: `${served.url}/v1`,
      maxRetries: 0,
      fetch: (to, init) => {
        const { model: _, ...body } = JSON.parse(String(init?.body))
        return fetch(to, { ...init, body: JSON.stringify(body) } as RequestInit)
      },
    })
    // The reference embeds an empty text as well, and the beginning of one that is too long: OpenAI's API refuses both.
    const kept = expected.sentences.flatMap((sentence, at) =>
      sentence === '' || expected.input_ids[at]!.length === MINILM_TOKENS ? [] : [at],
    )
    const { data } = await openai.embeddings.create({ model: '-', input: kept.map((at) => expected.sentences[at]!) })
    expect(data).toHaveLength(18)
    for (const [row, at] of kept.entries()) {
      for (const [number, value] of expected.embeddings[at]!.entries()) {
        expect(Math.abs(data[row]!.embedding[number]! - value)).toBeLessThan(1e-4)
      }
    }
    await served.close()
  },
)
