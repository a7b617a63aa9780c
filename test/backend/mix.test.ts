// A mix in a slot: the numbers of the merged artifact, one slot however it is spelt, and refusals that cost nobody theirs.
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { compile } from '../../compiler/compile.ts'
import { type Mix, paths } from '../../gpu-backend/contract.ts'
import { mixDigest, mixReader } from '../../gpu-backend/engine/mix.ts'
import { openModel } from '../../gpu-backend/engine/open.ts'
import { adapterReader } from '../../gpu-backend/engine/store.ts'
import { nodeHost, openFolder, stageFolder } from '../../runtime/disk.ts'
import { type Artifact, compileTiny } from './artifacts.ts'
import { read, startBackend } from './backend.ts'
import { collect, openInProcess } from './in-process.ts'

const TINY = join(import.meta.dirname, '..', 'parity', 'oracle', 'tiny')
const PROMPT = [5, 9, 11, 3, 17, 2, 8]
const SLOT = 1
const RANK = 64

let tiny: Artifact
const mixOf = (a: number, b: number): Mix => [
  { digest: tiny.digest('a'), weight: a },
  { digest: tiny.digest('b'), weight: b },
]

beforeAll(async () => {
  tiny = await compileTiny()
})

/** Logits of every position of the prompt; `mix` undefined: the artifact as it is. */
async function logitsOf(artifact: string, mix?: Mix, at: string = artifact): Promise<Float32Array[]> {
  const config = { artifact, threads: 1, slots: 1, bankRank: RANK, maxRows: 1, kvBudgetBytes: 2 ** 30 }
  const { manifest, session, model, bank } = await openModel(config)
  try {
    if (mix) {
      const make = mixReader(adapterReader(manifest, RANK, [join(at, 'adapters')]), RANK)
      bank!.write(SLOT, bank!.prepare(await make(mixDigest(mix), mix)))
    }
    const row = model.open(PROMPT.length)
    const [output] = await model.forward([{ row, tokens: PROMPT, slot: mix ? SLOT : 0, logits: 'all' }])
    return output!.logits.map((logits) => logits.slice())
  } finally {
    await session.release()
  }
}

const furthest = (found: readonly Float32Array[], expected: readonly Float32Array[]): number => {
  expect(found.length).toBe(expected.length)
  return Math.max(...found.flatMap((row, at) => [...row].map((value, i) => Math.abs(value - expected[at]![i]!))))
}

describe('a mix', () => {
  test.each([
    [0.7, 0.3],
    [1, 1],
    [-0.5, 1.25],
  ])('of a*%d and b*%d has the logits of the artifact that they are merged into, within 1e-4', async (a, b) => {
    const path = join(tiny.path, '..', `merged-${a}-${b}`)
    const out = await stageFolder(path)
    const adapters = [
      { name: 'a', weight: a, folder: openFolder(join(TINY, 'a')) },
      { name: 'b', weight: b, folder: openFolder(join(TINY, 'b')) },
    ]
    await compile({ base: openFolder(join(TINY, 'base')), adapters, target: 'merged' }, out, nodeHost)
    await out.commit()
    const expected = await logitsOf(path)
    const found = await logitsOf(tiny.path, mixOf(a, b))
    expect(furthest(found, expected)).toBeLessThan(1e-4)
    // It is neither the base nor either adapter.
    for (const other of [undefined, mixOf(a, b).slice(0, 1), mixOf(a, b).slice(1)]) {
      expect(furthest(found, await logitsOf(tiny.path, other))).toBeGreaterThan(1e-2)
    }
  })

  test('of one adapter at weight 1 has its very factors', async () => {
    const { manifest, session } = await openModel({
      artifact: tiny.path,
      threads: 1,
      slots: 1,
      bankRank: RANK,
      maxRows: 1,
      kvBudgetBytes: 2 ** 30,
    })
    await session.release()
    const single = adapterReader(manifest, RANK, [join(tiny.path, 'adapters')])
    const digest = tiny.digest('a')
    const { modules } = await mixReader(single, RANK)('mix', [{ digest, weight: 1 }])
    expect(modules).toEqual((await single(digest)).modules)
  })

  test('has one digest however its parts are ordered, and another for other weights', () => {
    const [a, b] = mixOf(0.7, 0.3)
    expect(mixDigest([b!, a!])).toBe(mixDigest([a!, b!]))
    const others = [mixOf(0.3, 0.7), mixOf(0.7, -0.3), [a!], [{ ...a!, weight: 1 }]].map(mixDigest)
    expect(new Set([...others, mixDigest([a!, b!]), a!.digest]).size).toBe(6)
  })

  test('is generated with, beside its parts and the base in one batch, as when alone', async () => {
    const engine = await openInProcess(tiny.path, { bankRank: RANK })
    const mix = mixOf(0.7, 0.3)
    const requests = [
      { adapter: mixDigest(mix), mix },
      { adapter: tiny.digest('a') },
      { adapter: null },
      { adapter: tiny.digest('b') },
    ].map((request) => ({ promptIds: PROMPT, maxTokens: 12, ...request }))
    const alone: number[][] = []
    for (const request of requests) alone.push((await collect(engine, request)).ids)
    const together = await Promise.all(requests.map((request) => collect(engine, request)))
    expect(together.map(({ ids }) => ids)).toEqual(alone)
    expect(engine.engine.residents().map(({ digest, pins }) => [digest, pins])).toContainEqual([mixDigest(mix), 0])
  })

  test('needs one slot, where even its parts have no other', async () => {
    const narrow = await openInProcess(tiny.path, { bankRank: RANK, slots: 1 })
    const mixes = [mixOf(0.7, 0.3), mixOf(0.3, 0.7), mixOf(0.7, 0.3)]
    const found = await Promise.all(
      mixes.map((mix) => collect(narrow, { promptIds: PROMPT, maxTokens: 12, adapter: mixDigest(mix), mix })),
    )
    expect(found.map(({ failure, finish }) => [failure, finish !== undefined])).toEqual(
      mixes.map(() => [undefined, true]),
    )
    expect(found[2]!.ids).toEqual(found[0]!.ids)
    expect(narrow.engine.residents()).toHaveLength(1)
  })

  test('above the rank of the bank is refused with both ranks, at it served', async () => {
    const rank = tiny.manifest.adapters.reduce((sum, { r }) => sum + r, 0)
    const mix = mixOf(0.7, 0.3)
    const request = { promptIds: PROMPT, maxTokens: 2, adapter: mixDigest(mix), mix }
    const exact = await openInProcess(tiny.path, { bankRank: rank })
    const found = await collect(exact, request)
    expect(found.failure).toBeUndefined()
    const lower = await openInProcess(tiny.path, { bankRank: Math.max(...tiny.manifest.adapters.map(({ r }) => r)) })
    const { failure } = await collect(lower, request)
    expect(failure).toMatchObject({ code: 'adapter_refused', param: 'model' })
    expect(failure?.message).toMatch(/has a rank of \d+, .*holds ranks up to \d+: mix fewer adapters/)
    expect(lower.engine.residents()).toEqual([])
  })

  test('with a part that the store does not have is not found', async () => {
    const engine = await openInProcess(tiny.path, { bankRank: RANK })
    const mix = [...mixOf(0.7, 0.3).slice(0, 1), { digest: 'f'.repeat(64), weight: 1 }]
    const { failure } = await collect(engine, { promptIds: PROMPT, adapter: mixDigest(mix), mix })
    expect(failure?.code).toBe('model_not_found')
  })
})

describe('over HTTP', () => {
  const at = startBackend()
  const names = ['triage', 'clauses'] as const
  const mixed = (): Mix => names.map((name) => ({ digest: at.demo.digest(name), weight: 0.5 }))

  test('a capability names a mix, which is loaded, listed and unloaded by its digest', async () => {
    const mix = mixed()
    const loaded = await read(at.post(paths.load, '', { act: 'load', adapter: mix }))
    expect(loaded).toMatchObject({ digest: mixDigest(mix) })
    const answer = await at.post(
      paths.completions,
      { prompt: 'Hi', max_tokens: 3, temperature: 0 },
      { adapter: mix, model: 'triage*0.5+clauses*0.5' },
    )
    expect([answer.status, await answer.json()]).toEqual([
      200,
      expect.objectContaining({ model: 'triage*0.5+clauses*0.5' }),
    ])
    const list = async () =>
      (await read(at.call(paths.adapters, { as: { act: 'admin' } }))).data.map(({ digest }) => digest)
    expect(await list()).toEqual([mixDigest(mix)])
    expect((await at.post(paths.unload, '', { act: 'admin', adapter: [...mix].reverse() })).status).toBe(200)
    expect(await list()).toEqual([])
  })

  test('one that is too wide is a 422 that says why', async () => {
    const mix = [...mixed(), { digest: at.demo.digest('dates'), weight: 1 }]
    const answer = await at.post(paths.completions, { prompt: 'Hi' }, { adapter: mix })
    expect([answer.status, (await read(answer)).error]).toEqual([
      422,
      expect.objectContaining({ code: 'adapter_refused', param: 'model' }),
    ])
  })

  test.each([
    ['no part', []],
    [
      'a part twice',
      [
        { digest: 'a'.repeat(64), weight: 1 },
        { digest: 'a'.repeat(64), weight: 2 },
      ],
    ],
    ['weight 0', [{ digest: 'a'.repeat(64), weight: 0 }]],
    ['a huge weight', [{ digest: 'a'.repeat(64), weight: 1_001 }]],
    ['a weight that is text', [{ digest: 'a'.repeat(64), weight: '1' }]],
    ['no digest', [{ digest: '../x', weight: 1 }]],
    ['a field too many', [{ digest: 'a'.repeat(64), weight: 1, base: true }]],
    ['nine parts', Array.from({ length: 9 }, (_, i) => ({ digest: String(i).repeat(64), weight: 1 }))],
  ])('a mix with %s is no capability', async (_, adapter) => {
    const answer = await at.post(paths.completions, { prompt: 'Hi' }, { adapter: adapter as Mix })
    expect([answer.status, (await read(answer)).error.code]).toEqual([401, 'capability_invalid'])
  })

  test('the body still has no field that could name one', async () => {
    for (const field of ['mix', 'adapter', 'adapters']) {
      const answer = await at.post(paths.completions, { prompt: 'Hi', [field]: mixed() })
      expect([answer.status, (await read(answer)).error.param]).toEqual([400, field])
    }
  })
})
