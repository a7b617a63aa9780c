// Continuous batching on the demo: what a row produces does not depend on who shares its batch, or when they come and go.
import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import type { GenerateRequest } from '../../gpu-backend/engine/request.ts'
import { serve } from '../../gpu-backend/serve.ts'
import { type Artifact, compileDemo, compileTiny, demoOracle } from './artifacts.ts'
import { collect, type InProcess, openInProcess, start } from './in-process.ts'

let demo: Artifact
let engine: InProcess
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))
const [{ ids: short }, , { ids: long }] = demoOracle.prompts as [{ ids: number[] }, unknown, { ids: number[] }]
const sampled = (seed: number) => ({ temperature: 0.9, topP: 0.95, seed })

beforeAll(async () => {
  demo = await compileDemo()
  engine = await openInProcess(demo.path)
})

type Given = Partial<GenerateRequest> & Pick<GenerateRequest, 'promptIds'>

describe('a batch', () => {
  test('of four adapters gives each row what it gets alone, greedy and seeded', async () => {
    const requests: Given[] = [null, 'triage', 'dates', 'clauses'].flatMap((name, seed) => {
      const adapter = name && demo.digest(name)
      return [
        { promptIds: long, adapter, maxTokens: 24 },
        { promptIds: short, adapter, maxTokens: 24, sampling: sampled(seed) },
      ]
    })
    const alone: number[][] = []
    for (const request of requests) alone.push((await collect(engine, request)).ids)
    const together = await Promise.all(requests.map((request) => collect(engine, request)))
    expect(together.map(({ ids }) => ids)).toEqual(alone)
  })

  test('whose rows join, leave and abort does not change the tokens of the others', async () => {
    const first: Given = { promptIds: short, maxTokens: 60, sampling: sampled(1) }
    const second: Given = { promptIds: long, maxTokens: 40, adapter: demo.digest('dates'), sampling: sampled(2) }
    const third: Given = {
      promptIds: long.slice(0, 9),
      maxTokens: 30,
      adapter: demo.digest('clauses'),
      sampling: sampled(3),
    }
    const alone = [(await collect(engine, first)).ids, (await collect(engine, third)).ids]
    let joined: ReturnType<typeof start> | undefined
    let later: ReturnType<typeof start> | undefined
    const running = start(engine, first, (count) => {
      if (count === 3) joined = start(engine, second)
      if (count === 7) later = start(engine, third)
      if (count === 9) engine.engine.abort(joined!.id)
    })
    const found = [(await running.done).ids, (await later!.done).ids]
    expect(found).toEqual(alone)
    expect(joined!.found.length).toBeLessThan(8)
  })

  test('prompts in chunks give the tokens that they give at once', async () => {
    const chunked = await openInProcess(demo.path, { prefillTokens: 5 })
    const requests: Given[] = [long, short, long.slice(0, 13)].map((promptIds) => ({ promptIds, maxTokens: 20 }))
    const expected: number[][] = []
    for (const request of requests) expected.push((await collect(engine, request)).ids)
    const found = await Promise.all(requests.map((request) => collect(chunked, request)))
    expect(found.map(({ ids }) => ids)).toEqual(expected)
  })
})

describe('an abort', () => {
  test('ends the row before the next run of the graph', async () => {
    let steps = 0
    const { found, id } = start(engine, { promptIds: short, maxTokens: 100, sampling: sampled(4) }, (count) => {
      if (count !== 3) return
      engine.engine.abort(id)
      steps = engine.engine.stats.steps
    })
    while (engine.engine.stats.rows > 0 || steps === 0) await turn()
    expect(found).toHaveLength(3)
    expect(engine.engine.stats.steps).toBe(steps)
  })

  test('of a waiting request takes it out of the queue', async () => {
    const one = await openInProcess(demo.path, { maxRows: 1 })
    const running = start(one, { promptIds: short, maxTokens: 10 })
    const waiting = start(one, { promptIds: short, maxTokens: 10, adapter: demo.digest('dates') })
    one.engine.abort(waiting.id)
    expect(one.engine.stats.queued).toBe(1)
    await running.done
    expect(waiting.found).toEqual([])
  })
})

describe('adapters', () => {
  test('one can be loaded while a stream is running, and the stream does not change', async () => {
    const fresh = await openInProcess(demo.path)
    const request: Given = { promptIds: short, maxTokens: 40, sampling: sampled(5), adapter: demo.digest('triage') }
    const { ids: expected } = await collect(engine, request)
    let loaded: Promise<number> | undefined
    const found = await start(fresh, request, (count) => {
      if (count === 2) loaded = fresh.engine.load(demo.digest('clauses'))
    }).done
    expect(found.ids).toEqual(expected)
    expect(await loaded).toBe(2)
    expect(fresh.engine.residents().map(({ digest, pins }) => [digest, pins])).toEqual([
      [demo.digest('triage'), 0],
      [demo.digest('clauses'), 0],
    ])
  })

  test.each([1, 2])('more of them than the %i slots take turns, each row with its own', async (slots) => {
    const narrow = await openInProcess(demo.path, { slots })
    const names = ['triage', 'dates', 'clauses', 'dates', 'triage', 'clauses', 'triage']
    const found = await Promise.all(
      names.map((name) =>
        collect(narrow, { promptIds: demoOracle.prompts[0]!.ids, adapter: demo.digest(name), maxTokens: 32 }),
      ),
    )
    const { continuations } = demoOracle.greedy
    expect(found.map(({ ids }) => ids)).toEqual(names.map((name) => continuations[name]![0]!.ids))
    expect(narrow.engine.residents()).toHaveLength(slots)
    expect(narrow.engine.stats.free).toBe(slots)
  })

  test('one that the store does not have fails its requests alone', async () => {
    const running = start(engine, { promptIds: short, maxTokens: 5 })
    const { failure } = await collect(engine, { promptIds: short, adapter: 'f'.repeat(64) })
    expect(failure?.code).toBe('model_not_found')
    expect((await running.done).ids).toHaveLength(5)
  })

  test('one whose rank is above the bank’s is refused by name', async () => {
    const narrow = await openInProcess(demo.path, { bankRank: 1 })
    const { failure } = await collect(narrow, { promptIds: short, adapter: demo.digest('triage') })
    expect(failure?.code).toBe('adapter_refused')
    expect(failure?.message).toContain('the bank holds ranks up to 1')
  })
})

describe('limits', () => {
  test('prompt and max_tokens beyond the positions of the model are refused, with the numbers', async () => {
    const { failure } = await collect(engine, { promptIds: short, maxTokens: 512 })
    expect(failure).toMatchObject({ code: 'context_length_exceeded' })
    expect(failure?.message).toContain(
      `${short.length} prompt tokens and max_tokens 512 are ${short.length + 512}; the model has 512`,
    )
    expect((await collect(engine, { promptIds: [] })).failure?.code).toBe('request_invalid')
  })

  test('the last position of the model can be used', async () => {
    const promptIds = Array.from({ length: 511 }, (_, at) => 300 + (at % 50))
    const { ids, finish } = await collect(engine, { promptIds, maxTokens: 1 })
    expect([ids.length, finish]).toEqual([1, 'length'])
  })

  test('a full queue refuses the next request and serves those before it', async () => {
    const small = await openInProcess(demo.path, { maxQueue: 3, maxRows: 1 })
    const requests = Array.from({ length: 4 }, () => start(small, { promptIds: short, maxTokens: 3 }))
    const found = await Promise.all(requests.map(({ done }) => done))
    expect(found.map(({ failure }) => failure?.code)).toEqual([undefined, undefined, undefined, 'queue_full'])
  })

  test('a memory for one long row lets requests wait their turn', async () => {
    const rowBytes = 128 * 2 * 32 * 2 * 4 * 4
    const small = await openInProcess(demo.path, { kvBudgetBytes: rowBytes })
    let most = 0
    const found = await Promise.all(
      [1, 2, 3].map(
        () =>
          start(small, { promptIds: short, maxTokens: 80, sampling: sampled(6) }, () => {
            most = Math.max(most, small.engine.stats.rows)
          }).done,
      ),
    )
    expect(most).toBe(1)
    expect(found[1]!.ids).toEqual(found[0]!.ids)
    expect((await collect(small, { promptIds: short, maxTokens: 200 })).failure?.code).toBe('context_length_exceeded')
  })

  test('a budget that holds no row at all is refused at the start', async () => {
    await expect(openInProcess(demo.path, { kvBudgetBytes: 1_000 })).rejects.toThrow('does not hold one row')
  })
})

describe('other artifacts', () => {
  test('a merged one serves the base, which is its adapter, and refuses to be given another', async () => {
    const merged = await compileDemo('merged', 'clauses')
    const opened = await openInProcess(merged.path)
    const { ids: promptIds } = demoOracle.prompts[2]!
    const { ids } = await collect(opened, { promptIds, maxTokens: 32 })
    expect(ids).toEqual(demoOracle.greedy.continuations.clauses![2]!.ids)
    expect((await collect(opened, { promptIds, adapter: demo.digest('clauses') })).failure?.code).toBe(
      'model_not_found',
    )
  })

  test('a merged one is announced as a base of its own, never as the plain one', async () => {
    const { path, manifest } = await compileDemo('merged', 'clauses')
    const backend = await serve({ artifact: path, secret: 's'.repeat(32), port: 0, log: () => {} })
    await backend.close()
    const id = createHash('sha256')
      .update(readFileSync(join(path, 'manifest.json')))
      .digest('hex')
    expect(backend.ready.base).toBe(id)
    expect(id).not.toBe(manifest.base.digest)
  })

  test('a stacked one serves its adapters in every row, as the merged one of them does, under an id of its own', async () => {
    const stacked = await compileDemo('stacked', 'clauses')
    const opened = await openInProcess(stacked.path)
    for (const at of [0, 2]) {
      const { ids: promptIds } = demoOracle.prompts[at]!
      const { ids } = await collect(opened, { promptIds, maxTokens: 32 })
      expect(ids).toEqual(demoOracle.greedy.continuations.clauses![at]!.ids)
      expect((await collect(opened, { promptIds, adapter: demo.digest('clauses') })).failure?.code).toBe(
        'model_not_found',
      )
    }
    const tiny = await compileTiny('stacked')
    const [both, merged] = [await openInProcess(tiny.path), await openInProcess((await compileTiny('merged')).path)]
    const asked = { promptIds: [5, 9, 11], maxTokens: 8 }
    expect((await collect(both, asked)).ids).toEqual((await collect(merged, asked)).ids)
    const backend = await serve({ artifact: tiny.path, secret: 's'.repeat(32), port: 0, log: () => {} })
    await backend.close()
    const id = createHash('sha256')
      .update(readFileSync(join(tiny.path, 'manifest.json')))
      .digest('hex')
    expect(backend.ready.base).toBe(id)
  })

  test('one without a tokenizer serves ids', async () => {
    const tiny = await compileTiny()
    const opened = await openInProcess(tiny.path)
    const found = await collect(opened, { promptIds: [5, 9, 11], adapter: tiny.digest('b'), maxTokens: 6 })
    expect([found.text, found.failure]).toEqual(['', undefined])
    expect(found.ids.length).toBeGreaterThan(0)
  })
})
