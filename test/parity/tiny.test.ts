// A random tiny Llama with two adapters (rsLoRA, rank_pattern, in ≠ out, untied head) against transformers and PEFT.
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openFolder } from '../../runtime/disk.ts'
import { type Compiled, compileToDisk, TINY } from '../compiler/folders.ts'
import { type Bank, EngineRunner, fillBank, loadAdapter, ModelRunner, maxError, range } from '../compiler/runner.ts'
import { type Oracle, readOracle } from './oracle.ts'

const TOLERANCE = 1e-4
const base = () => openFolder(join(TINY, 'base'))
const adapter = (name: string, weight = 1) => ({ name, folder: openFolder(join(TINY, name)), weight })
const VARIANTS = [undefined, 'a', 'b'] as const
const key = (variant: string | undefined) => variant ?? 'base'

let oracle: Oracle
let artifact: Compiled
let model: ModelRunner
let engine: EngineRunner
let bank: Bank

beforeAll(async () => {
  oracle = await readOracle('tiny')
  artifact = await compileToDisk({ base: base(), adapters: [adapter('a'), adapter('b')], target: 'routed' })
  model = await ModelRunner.open(artifact.path, artifact.manifest)
  engine = await EngineRunner.open(artifact.path, artifact.manifest)
  const [a, b] = await Promise.all(
    artifact.manifest.adapters.map((entry) => loadAdapter(artifact.path, artifact.manifest, entry)),
  )
  // Slots out of order and a rank above every adapter's, so that neither is assumed.
  bank = fillBank(artifact.manifest, [b!, a!], 7)
})

afterAll(async () => {
  await model.release()
  await engine.release()
  await artifact[Symbol.asyncDispose]()
})

const expected = (variant: string | undefined, prompt: number) => oracle.rows(`${key(variant)}/p${prompt}`)

/** Runs every token of `rows` in one call of the engine. */
async function engineFull(rows: readonly { ids: readonly number[]; adapter?: string | undefined }[], runner = engine) {
  const counts = rows.map(({ ids }) => ids.length)
  const cache = runner.newCache(rows.length, 32)
  return runner.step(
    rows,
    counts.map(() => 0),
    counts,
    cache,
    runner === engine ? bank : undefined,
  )
}

describe('the oracle', () => {
  it('tells base, a and b apart by far more than the tolerance', () => {
    for (const prompt of range(0, oracle.prompts.length)) {
      for (const [one, other] of [
        ['base', 'a'],
        ['base', 'b'],
        ['a', 'b'],
      ] as const) {
        expect(maxError(oracle.rows(`${one}/p${prompt}`), oracle.rows(`${other}/p${prompt}`))).toBeGreaterThan(0.1)
      }
    }
  })
})

describe.each(VARIANTS)('routed, adapter %s', (variant) => {
  it('gives the logits of transformers and PEFT on model.onnx', async () => {
    for (const [prompt, ids] of oracle.prompts.entries()) {
      const { logits } = await model.step([{ ids, adapter: variant }], 0, ids.length, bank)
      expect(maxError(logits[0]!, expected(variant, prompt))).toBeLessThan(TOLERANCE)
    }
  })

  it('gives the logits of transformers and PEFT on engine.onnx', async () => {
    for (const [prompt, ids] of oracle.prompts.entries()) {
      const [logits] = await engineFull([{ ids, adapter: variant }])
      expect(maxError(logits!, expected(variant, prompt))).toBeLessThan(TOLERANCE)
    }
  })
})

describe.each(VARIANTS)('routed, all rows of %s', (variant) => {
  it('give the logits of transformers and PEFT on engine-shared.onnx', async () => {
    const shared = await EngineRunner.openShared(artifact.path, artifact.manifest)
    const cache = shared.newCache(oracle.prompts.length, 32)
    const rows = oracle.prompts.map((ids) => ({ ids, adapter: variant }))
    const counts = oracle.prompts.map(({ length }) => length)
    const found = await shared.step(
      rows,
      counts.map(() => 0),
      counts,
      cache,
      bank,
    )
    for (const [prompt, logits] of found.entries()) {
      expect(maxError(logits, expected(variant, prompt))).toBeLessThan(TOLERANCE)
    }
    await shared.release()
  })
})

describe.each(['a', 'b'])('merged, adapter %s', (name) => {
  it('gives the logits of PEFT, unmerged and merged, on both graphs', async () => {
    await using merged = await compileToDisk({ base: base(), adapters: [adapter(name)], target: 'merged' })
    const mergedModel = await ModelRunner.open(merged.path, merged.manifest)
    const mergedEngine = await EngineRunner.open(merged.path, merged.manifest)
    for (const [prompt, ids] of oracle.prompts.entries()) {
      const { logits } = await mergedModel.step([{ ids }], 0, ids.length)
      const [engineLogits] = await engineFull([{ ids }], mergedEngine)
      for (const found of [logits[0]!, engineLogits!]) {
        expect(maxError(found, oracle.rows(`${name}.merged/p${prompt}`))).toBeLessThan(TOLERANCE)
        expect(maxError(found, expected(name, prompt))).toBeLessThan(TOLERANCE)
      }
    }
    await mergedModel.release()
    await mergedEngine.release()
  })
})

describe('a batch', () => {
  it.each([[[undefined, 'a', 'b']], [['b', undefined, 'a']], [['a', 'b', undefined]]])(
    'whose rows use %s gives each row its own logits, on both graphs',
    async (order) => {
      const rows = order.map((variant, prompt) => ({ ids: oracle.prompts[prompt]!, adapter: variant }))
      const ragged = await engineFull(rows)
      const padded = await model.padded(rows, 'right', bank)
      for (const [prompt, variant] of order.entries()) {
        expect(maxError(ragged[prompt]!, expected(variant, prompt))).toBeLessThan(TOLERANCE)
        expect(maxError(padded[prompt]!, expected(variant, prompt))).toBeLessThan(TOLERANCE)
      }
    },
  )

  it.each(['left', 'right'] as const)('padded on the %s gives the logits of each row alone', async (side) => {
    const rows = oracle.prompts.map((ids, prompt) => ({ ids, adapter: VARIANTS[prompt] }))
    const logits = await model.padded(rows, side, bank)
    for (const [prompt, variant] of VARIANTS.entries()) {
      expect(maxError(logits[prompt]!, expected(variant, prompt))).toBeLessThan(TOLERANCE)
    }
  })
})

describe('prefill and decoding with a cache', () => {
  const LONGEST = 2

  it('gives the logits of the whole forward pass on model.onnx', async () => {
    const ids = oracle.prompts[LONGEST]!
    const rows = VARIANTS.map((variant) => ({ ids, adapter: variant }))
    const cuts = [6, ...range(7, ids.length + 1)]
    let past: Awaited<ReturnType<ModelRunner['step']>>['results'] | undefined
    for (const [index, to] of cuts.entries()) {
      const from = cuts[index - 1] ?? 0
      const { logits, results } = await model.step(rows, from, to, bank, past)
      past = results
      for (const [row, variant] of VARIANTS.entries()) {
        expect(maxError(logits[row]!, expected(variant, LONGEST).slice(from, to))).toBeLessThan(TOLERANCE)
      }
    }
  })

  it('gives the logits of the whole forward pass on engine.onnx, whatever unused cache entries hold', async () => {
    const rows = VARIANTS.map((variant, prompt) => ({ ids: oracle.prompts[prompt]!, adapter: variant }))
    // Products with 3e38 overflow to infinity and cancel to NaN: only a score that is replaced survives that.
    const cache = engine.newCache(rows.length, 19, 3e38)
    const past = [0, 0, 0]
    const takes = [
      [3, 7, 4],
      [1, 1, 1],
      [1, 1, 1],
      [0, 2, 5],
      [0, 0, 6],
    ]
    for (const counts of takes) {
      const busy = rows.map((_, row) => row).filter((row) => counts[row]! > 0)
      const pick = <T>(values: readonly T[]) => busy.map((row) => values[row] as T)
      const part = pickRows(cache, busy, rows.length)
      const logits = await engine.step(pick(rows), pick(past), pick(counts), part, bank)
      putRows(cache, part, busy, rows.length)
      for (const [index, row] of busy.entries()) {
        const span = expected(VARIANTS[row], row).slice(past[row]!, past[row]! + counts[row]!)
        expect(maxError(logits[index]!, span)).toBeLessThan(TOLERANCE)
        past[row]! += counts[row]!
      }
    }
    expect(past).toEqual(oracle.prompts.map((ids) => ids.length))
  })
})

function pickRows(cache: ReturnType<EngineRunner['newCache']>, rows: readonly number[], batch: number) {
  return Object.fromEntries(
    Object.entries(cache).map(([name, { data, dims }]) => {
      const size = data.length / batch
      const picked = new Float32Array(rows.length * size)
      for (const [at, row] of rows.entries())
        picked.set((data as Float32Array).subarray(row * size, (row + 1) * size), at * size)
      return [name, { data: picked, dims: [rows.length, ...dims.slice(1)] }]
    }),
  )
}

function putRows(
  cache: ReturnType<EngineRunner['newCache']>,
  part: ReturnType<EngineRunner['newCache']>,
  rows: readonly number[],
  batch: number,
) {
  for (const [name, { data }] of Object.entries(cache)) {
    const size = data.length / batch
    const from = part[name]!.data as Float32Array
    for (const [at, row] of rows.entries())
      (data as Float32Array).set(from.subarray(at * size, (at + 1) * size), row * size)
  }
}
