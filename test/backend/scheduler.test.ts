// The scheduler over a model of a few lines: failures stay with their row, and nobody waits for ever.

import { expect, test } from 'vitest'
import { Engine } from '../../gpu-backend/engine/engine.ts'
import { createGrammars } from '../../gpu-backend/engine/grammar.ts'
import type { Input, Model, Row } from '../../gpu-backend/engine/model.ts'
import type { Pinned } from '../../gpu-backend/engine/residency.ts'
import { dispatcher, type InProcess, requestOf, start } from './in-process.ts'

const VOCAB = 10
const END = 9
const NAN_TOKEN = 7
const BAD_KEYS_TOKEN = 6
const CRASH_TOKEN = 5

interface FakeRow extends Row {
  length: number
}

/** The next token is the last one plus one; some tokens of the prompt make trouble. */
function fakeModel(maxRows: number): { model: Model; runs: number[][] } {
  const runs: number[][] = []
  let rows = 0
  const answer = ({ row, tokens, logits }: Input) => {
    const last = tokens.at(-1)!
    const vector = new Float32Array(VOCAB)
    vector[(last + 1) % VOCAB] = last === NAN_TOKEN ? Number.NaN : 1
    ;(row as FakeRow).length += tokens.length
    return { logits: logits === 'none' ? [] : [vector], finite: last !== BAD_KEYS_TOKEN }
  }
  const model: Model = {
    maxPositions: 100,
    fits: () => true,
    hasRoom: () => rows < maxRows,
    open: (): FakeRow => {
      rows += 1
      return { length: 0 }
    },
    close: () => {
      rows -= 1
    },
    async forward(inputs) {
      runs.push(inputs.map(({ tokens }) => tokens.length))
      if (inputs.some(({ tokens }) => tokens.includes(CRASH_TOKEN))) throw new Error('secret detail')
      return inputs.map(answer)
    },
  }
  return { model, runs }
}

function open(
  maxRows = 4,
  pin: (digest: string) => Pinned = () => 'full',
  prefillTokens = 8,
  prefetch: (digest: string) => void = () => {},
) {
  const { model, runs } = fakeModel(maxRows)
  const { listeners, emit } = dispatcher()
  const adapters = {
    free: 1,
    hostBytes: 0,
    pin,
    prefetch,
    release() {},
    forget() {},
    load: async () => 1,
    unload() {},
    list: () => [],
  }
  const engine = new Engine({
    base: 'base',
    model,
    adapters,
    slots: 1,
    endIds: new Set([END]),
    decode: undefined,
    grammars: createGrammars(undefined),
    maxQueue: 100,
    prefillTokens,
    kvTokens: 400,
    emit,
  })
  const opened: InProcess = { engine, listeners }
  return { opened, runs }
}

test('rows end at an end token or at max_tokens', async () => {
  const { opened } = open()
  const found = await Promise.all([
    start(opened, { promptIds: [0], maxTokens: 3 }).done,
    start(opened, { promptIds: [8], maxTokens: 3 }).done,
  ])
  expect(found).toMatchObject([
    { ids: [1, 2, 3], finish: 'length' },
    { ids: [END], finish: 'stop' },
  ])
})

test('logits or keys that are not finite end their row, and the batch goes on', async () => {
  const { opened } = open()
  const [fine, nan, keys] = await Promise.all(
    [[0], [NAN_TOKEN], [BAD_KEYS_TOKEN]].map((promptIds) => start(opened, { promptIds, maxTokens: 4 }).done),
  )
  expect(fine!.ids).toEqual([1, 2, 3, 4])
  expect(nan!.failure).toMatchObject({
    code: 'non_finite_logits',
    message: expect.stringContaining('row produced non-finite logits'),
  })
  expect(keys!.failure?.code).toBe('non_finite_logits')
  expect(opened.engine.stats.rows).toBe(0)
})

test('a run that fails ends its rows, and later ones are served', async () => {
  const { opened } = open()
  const { failure } = await start(opened, { promptIds: [CRASH_TOKEN] }).done
  expect(failure?.code).toBe('internal')
  expect((await start(opened, { promptIds: [0], maxTokens: 2 }).done).ids).toEqual([1, 2])
})

test('a long prompt is chunked, and rows that decode run in between', async () => {
  const { opened, runs } = open(4, undefined, 8)
  const decoding = start(opened, { promptIds: [0], maxTokens: 8 })
  await Promise.all([decoding.done, start(opened, { promptIds: Array(20).fill(0), maxTokens: 1 }).done])
  expect(runs.filter((run) => run.length === 1 && run[0] === 8)).toHaveLength(2)
  const between = runs.slice(runs.findIndex((run) => run[0] === 8) + 1)
  expect(between[0]).toEqual([1])
})

test('a short prompt waits for one chunk of a long one, not for all of it', async () => {
  const { opened, runs } = open(4, undefined, 8)
  const long = start(opened, { promptIds: Array(60).fill(0), maxTokens: 1, tenant: 'long' })
  const order: string[] = []
  void long.done.then(() => order.push('long'))
  while (runs.length === 0) await new Promise((resolve) => setImmediate(resolve))
  const short = start(opened, { promptIds: [0, 0], maxTokens: 2, tenant: 'short' })
  void short.done.then(() => order.push('short'))
  await Promise.all([long.done, short.done])
  expect(order).toEqual(['short', 'long'])
  const mine = runs.findIndex((run) => run.includes(2))
  expect(runs.slice(0, mine).filter((run) => run[0] === 8).length).toBeLessThanOrEqual(3)
})

test('a scored prompt runs in chunks whose logits are few, and produces nothing', async () => {
  const { opened, runs } = open(4, undefined, 64)
  const promptIds = Array.from({ length: 50 }, (_, at) => at % 5)
  const { done } = start(opened, { promptIds, maxTokens: 0, logprobs: 1, scorePrompt: true })
  const { finish, ids, failure } = await done
  expect([finish, ids, failure]).toEqual(['length', [], undefined])
  expect(runs).toEqual([[32], [18]])
})

test('a form that cannot be kept to ends its row, and the batch goes on', async () => {
  const { opened } = open()
  const [kept, fine] = await Promise.all([
    start(opened, { promptIds: [0], maxTokens: 4, constraint: { kind: 'object' } }).done,
    start(opened, { promptIds: [0], maxTokens: 4 }).done,
  ])
  expect(kept.failure).toMatchObject({ code: 'request_invalid', param: 'response_format' })
  expect(fine.ids).toEqual([1, 2, 3, 4])
  expect(opened.engine.stats).toMatchObject({ rows: 0, kvUsed: 0 })
})

test('requests without a slot are overtaken for a while, and not for ever', async () => {
  let freed = false
  const { opened } = open(1, () => (freed ? 1 : 'full'))
  const order: string[] = []
  const waiting = start(opened, { promptIds: [0], maxTokens: 1, adapter: 'a'.repeat(64), tenant: 'patient' })
  const others = Array.from({ length: 40 }, (_, at) =>
    start(opened, { promptIds: [0], maxTokens: 1, tenant: `t${at}` }),
  )
  for (const [at, { done }] of others.entries()) void done.then(() => order.push(`t${at}`))
  void waiting.done.then(() => order.push('patient'))
  while (opened.engine.stats.rows > 0 || order.length < 32) await new Promise((resolve) => setImmediate(resolve))
  expect(order).toHaveLength(32)
  freed = true
  opened.engine.adapterLoaded('a'.repeat(64), undefined)
  await Promise.all([waiting.done, ...others.map(({ done }) => done)])
  expect(order[32]).toBe('patient')
})

test('tenants take turns for a row', async () => {
  const { opened } = open(1)
  const order: string[] = []
  const requests = ['a1', 'a2', 'a3', 'b1', 'b2'].map((name) => {
    const { done } = start(opened, { promptIds: [0], maxTokens: 1, tenant: name[0]! })
    return done.then(() => order.push(name))
  })
  await Promise.all(requests)
  expect(order).toEqual(['a1', 'b1', 'a2', 'b2', 'a3'])
})

test('stopping ends everything and is quiet', async () => {
  const { opened } = open(1)
  const requests = [1, 2].map(() => start(opened, requestOf({ promptIds: [0], maxTokens: 90 })))
  await opened.engine.stop()
  expect(opened.engine.stats).toMatchObject({ rows: 0, queued: 0 })
  expect(requests.map(({ found }) => found.length)).toEqual([0, 0])
})

test('the adapters of those that wait for a row are read meanwhile, of the first few in turn', async () => {
  const asked: string[] = []
  const { opened } = open(
    1,
    () => 1,
    8,
    (digest) => asked.push(digest),
  )
  const running = start(opened, { promptIds: [0], maxTokens: 4, adapter: 'x', tenant: 'one' })
  const waiting = ['a', 'b', null, 'c', 'd', 'e'].map((adapter) =>
    start(opened, { promptIds: [0], maxTokens: 1, adapter, tenant: 'one' }),
  )
  const late = start(opened, { promptIds: [0], maxTokens: 1, adapter: 'other', tenant: 'two' })
  await running.done
  expect([...new Set(asked)].slice(0, 3)).toEqual(['other', 'a', 'b'])
  await Promise.all([late, ...waiting].map(({ done }) => done))
})
