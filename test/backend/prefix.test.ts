// Prefix reuse on the demo: the same answers with fewer tokens run, and never across tenants, adapters or weights.
import { beforeAll, describe, expect, test } from 'vitest'
import { type Mix, paths } from '../../gpu-backend/contract.ts'
import { mixDigest } from '../../gpu-backend/engine/mix.ts'
import { openModel } from '../../gpu-backend/engine/open.ts'
import { BLOCK_TOKENS } from '../../gpu-backend/engine/prefix-cache.ts'
import { PrefixKeys } from '../../gpu-backend/engine/prefix-keys.ts'
import type { GenerateRequest, Piece } from '../../gpu-backend/engine/request.ts'
import { demoOracle } from './artifacts.ts'
import { type Answer, read, startBackend } from './backend.ts'
import { type InProcess, openInProcess, requestOf } from './in-process.ts'

const at = startBackend()
/** Of the prompts' own text, so that what follows is no noise. */
const words = demoOracle.prompts.flatMap(({ ids }) => ids)
const TEXT = Array.from({ length: 200 }, (_, index) => words[index % words.length]!)
const WHOLE_BLOCKS = Math.floor((TEXT.length - 1) / BLOCK_TOKENS) * BLOCK_TOKENS
const sampled = (seed: number) => ({ temperature: 0.9, topP: 0.95, seed })

type Given = Partial<GenerateRequest>

let engine: InProcess
let without: InProcess
let lastId = 1_000_000
let tenants = 0
/** One that has asked for nothing so far. */
const newcomer = (): string => `tenant ${++tenants}`

beforeAll(async () => {
  engine = await openInProcess(at.demo.path)
  without = await openInProcess(at.demo.path, { prefixBudgetBytes: 0 })
})

interface Found {
  readonly ids: readonly number[]
  /** Tokens of the prompt that were reused. */
  readonly cached: number
  readonly scored: number
}

function ask({ engine: asked, listeners }: InProcess, given: Given): Promise<Found> {
  const id = ++lastId
  const pieces: Piece[] = []
  return new Promise((resolve, reject) => {
    listeners.set(id, (event) => {
      if ('failure' in event) return reject(new Error(event.failure.message))
      pieces.push(event.piece)
      if (event.piece.finish === undefined) return
      resolve({
        ids: pieces.flatMap(({ ids }) => ids),
        cached: pieces.reduce((sum, { cachedTokens = 0 }) => sum + cachedTokens, 0),
        scored: pieces.reduce((sum, { promptLogprobs = [] }) => sum + promptLogprobs.length, 0),
      })
    })
    asked.submit(id, requestOf({ promptIds: TEXT, ...given }))
  })
}

describe('a prompt that has run before', () => {
  test('runs from its last whole block on, and is answered as without reuse, greedy and seeded', async () => {
    for (const adapter of [null, at.demo.digest('triage')]) {
      for (const sampling of [{ temperature: 0, topP: 1, seed: 0 }, sampled(5)]) {
        const request = { adapter, sampling, maxTokens: 24, tenant: newcomer() }
        const expected = await ask(without, request)
        const first = await ask(engine, request)
        const before = engine.engine.stats.prefillTokens
        const second = await ask(engine, request)
        expect([first.cached, second.cached, expected.cached]).toEqual([0, WHOLE_BLOCKS, 0])
        expect(engine.engine.stats.prefillTokens - before).toBe(TEXT.length - WHOLE_BLOCKS)
        expect([first.ids, second.ids]).toEqual([expected.ids, expected.ids])
      }
    }
  })

  test('is reused up to where another one differs, and past its end with its answer', async () => {
    const tenant = newcomer()
    const { ids } = await ask(engine, { tenant, maxTokens: 40 })
    const differs = [...TEXT.slice(0, 100), 7, ...TEXT.slice(101)]
    expect((await ask(engine, { tenant, promptIds: differs })).cached).toBe(
      Math.floor(100 / BLOCK_TOKENS) * BLOCK_TOKENS,
    )
    expect((await ask(engine, { tenant, promptIds: [7, ...TEXT.slice(1)] })).cached).toBe(0)
    const next = [...TEXT, ...ids, 7, 8]
    const found = await ask(engine, { tenant, promptIds: next, maxTokens: 20 })
    // The last token that was produced has not run.
    expect(found.cached).toBe(Math.floor((TEXT.length + ids.length - 1) / BLOCK_TOKENS) * BLOCK_TOKENS)
    expect(found.ids).toEqual((await ask(without, { promptIds: next, maxTokens: 20 })).ids)
  })

  test('always runs its last token', async () => {
    const tenant = newcomer()
    const promptIds = TEXT.slice(0, 2 * BLOCK_TOKENS)
    await ask(engine, { tenant, promptIds })
    expect((await ask(engine, { tenant, promptIds })).cached).toBe(BLOCK_TOKENS)
  })

  test('is not reused where its own log-probabilities are asked for', async () => {
    const tenant = newcomer()
    await ask(engine, { tenant })
    const queried = engine.engine.stats.prefixes!.queriedTokens
    const found = await ask(engine, { tenant, scorePrompt: true, logprobs: 1 })
    expect([found.cached, found.scored]).toEqual([0, TEXT.length - 1])
    expect(engine.engine.stats.prefixes!.queriedTokens).toBe(queried)
  })

  test('has the logits that it has without reuse, within the tolerance of a batch', async () => {
    const { model, session } = await openModel({
      artifact: at.demo.path,
      slots: 1,
      bankRank: undefined,
      maxRows: 2,
      kvBudgetBytes: 2 ** 28,
      prefixBudgetBytes: 2 ** 24,
      threads: 1,
    })
    const [whole, reused] = [model.open(TEXT.length), model.open(TEXT.length)]
    const last = async (row: typeof whole, from: number) =>
      (await model.forward([{ row, slot: 0, tokens: TEXT.slice(from), logits: 'last' }]))[0]!.logits[0]!.slice()
    const expected = await last(whole, 0)
    model.prefixes!.keepBlock(whole, 0, 'first', undefined)
    model.prefixes!.keepBlock(whole, BLOCK_TOKENS, 'second', 'first')
    expect(model.prefixes!.restoreBlocks(reused, ['first', 'second'])).toBe(2)
    const found = await last(reused, 2 * BLOCK_TOKENS)
    expect(Math.max(...found.map((logit, id) => Math.abs(logit - expected[id]!)))).toBeLessThan(1e-4)
    await session.release()
  })
})

describe('what is reused belongs to', () => {
  test('one tenant: another one runs every token, and is charged for it', async () => {
    await ask(engine, { tenant: newcomer() })
    const before = engine.engine.stats
    expect((await ask(engine, { tenant: newcomer() })).cached).toBe(0)
    expect(engine.engine.stats.prefillTokens - before.prefillTokens).toBe(TEXT.length)
    expect(engine.engine.stats.prefixes!.hitTokens).toBe(before.prefixes!.hitTokens)
  })

  test('one adapter by its content, and one mix by its weights', async () => {
    const tenant = newcomer()
    const [triage, dates] = [at.demo.digest('triage'), at.demo.digest('dates')]
    const mixOf = (weight: number): Given => {
      const mix: Mix = [
        { digest: triage, weight },
        { digest: dates, weight: 0.5 },
      ]
      return { adapter: mixDigest(mix), mix }
    }
    const roomy = await openInProcess(at.demo.path, { bankRank: 64 })
    const cached: number[] = []
    for (const given of [{ adapter: null }, { adapter: triage }, { adapter: dates }, mixOf(0.5), mixOf(0.25)]) {
      cached.push((await ask(roomy, { tenant, ...given })).cached)
    }
    expect(cached).toEqual([0, 0, 0, 0, 0])
    expect((await ask(roomy, { tenant, ...mixOf(0.5) })).cached).toBe(WHOLE_BLOCKS)
  })

  test('one base, adapter, tenant and beginning, by its key', () => {
    const owner = { base: 'b', adapter: 'a', tenant: 't' }
    const tokenAt = (token: number): number => token
    const keyOf = (given: object, tokens = tokenAt, index = 1): string =>
      new PrefixKeys({ ...owner, ...given }, tokens).at(index)
    const all = [
      keyOf({}),
      keyOf({}, tokenAt, 0),
      keyOf({ base: 'c' }),
      keyOf({ adapter: null }),
      keyOf({ adapter: 't', tenant: 'a' }),
      keyOf({ tenant: 'u' }),
      keyOf({}, (token) => (token === 0 ? 9 : token)),
      keyOf({}, (token) => (token === 31 ? 9 : token)),
    ]
    expect(new Set(all).size).toBe(all.length)
    expect(keyOf({}, (token) => (token > 31 ? 9 : token))).toBe(all[0])
  })
})

describe('rows at the same time', () => {
  test('with one prompt run it once, and each is answered as alone', async () => {
    const tenant = newcomer()
    const before = engine.engine.stats
    const found = await Promise.all([1, 2, 3, 4].map((seed) => ask(engine, { tenant, sampling: sampled(seed) })))
    const { prefillTokens } = engine.engine.stats
    expect(found.map(({ cached }) => cached).sort()).toEqual([0, WHOLE_BLOCKS, WHOLE_BLOCKS, WHOLE_BLOCKS])
    expect(prefillTokens - before.prefillTokens).toBe(TEXT.length + 3 * (TEXT.length - WHOLE_BLOCKS))
    for (const [index, { ids }] of found.entries()) {
      expect(ids).toEqual((await ask(without, { sampling: sampled(index + 1) })).ids)
    }
  })

  test('of which the first is aborted go on without it', async () => {
    const tenant = newcomer()
    engine.engine.submit(++lastId, requestOf({ promptIds: TEXT, tenant }))
    const first = lastId
    const others = [1, 2].map((seed) => ask(engine, { tenant, sampling: sampled(seed) }))
    await new Promise((resolve) => setImmediate(resolve))
    engine.engine.abort(first)
    for (const [index, { ids }] of (await Promise.all(others)).entries()) {
      expect(ids).toEqual((await ask(without, { sampling: sampled(index + 1) })).ids)
    }
  })

  test('get the memory of prefixes before one has to wait', async () => {
    const tokenBytes = 4 * 2 * 32 * 2 * 4
    const config = { kvBudgetBytes: 2 * 256 * tokenBytes, prefixBudgetBytes: 2 ** 30, maxRows: 2 }
    const tight = await openInProcess(at.demo.path, config)
    await ask(tight, { tenant: 'a' })
    expect(tight.engine.stats.prefixes!.bytes).toBeGreaterThan(0)
    let most = 0
    const both = ['b', 'c'].map((tenant) => ask(tight, { tenant, maxTokens: 50 }))
    const done = Promise.all(both).then(() => true)
    while (!(await Promise.race([done, new Promise((resolve) => setImmediate(() => resolve(false)))]))) {
      most = Math.max(most, tight.engine.stats.rows)
    }
    expect(most).toBe(2)
    const expected = (await ask(without, { maxTokens: 50 })).ids
    for (const { ids } of await Promise.all(both)) expect(ids).toEqual(expected)
  })
})

describe('over HTTP', () => {
  type Counted = Answer & { usage: { prompt_tokens: number; prompt_tokens_details: { cached_tokens: number } } }
  const complete = async (fields: object, tenant: string): Promise<Counted['usage']> => {
    const body = { prompt: TEXT, max_tokens: 3, temperature: 0, ...fields }
    return ((await read(at.post(paths.completions, body, { tenant }))) as Counted).usage
  }

  test('the usage says what was cached: of n answers, what the first one found', async () => {
    const tenant = newcomer()
    const usages = [await complete({ n: 3 }, tenant), await complete({ n: 3 }, tenant), await complete({}, newcomer())]
    expect(usages.map((usage) => usage.prompt_tokens_details.cached_tokens)).toEqual([0, WHOLE_BLOCKS, 0])
    expect(usages[1]!.prompt_tokens).toBe(TEXT.length)
    const two = await complete({ prompt: [TEXT, [7, ...TEXT]], n: 2 }, tenant)
    expect(two.prompt_tokens_details.cached_tokens).toBe(WHOLE_BLOCKS)
  })

  test('the metrics count what was looked for and found, as vLLM names them', async () => {
    const numbers = async (): Promise<number[]> => {
      const text = await (await at.call(paths.metrics, { as: { act: 'admin' } })).text()
      return ['queries', 'hits'].map((what) => {
        const line = text.split('\n').find((one) => one.startsWith(`vllm:prefix_cache_${what}_total{`))
        return Number(line?.split(' ').at(-1))
      })
    }
    const tenant = newcomer()
    await complete({}, tenant)
    const before = await numbers()
    await complete({}, tenant)
    const after = await numbers()
    expect(after.map((value, index) => value - before[index]!)).toEqual([TEXT.length, WHOLE_BLOCKS])
  })
})
