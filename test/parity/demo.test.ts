// The demo's base and adapters against transformers and PEFT: last positions, greedy continuations, scores, a mixed batch.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { openFolder } from '../../runtime/disk.ts'
import { type Compiled, compileToDisk } from '../compiler/folders.ts'
import { type Bank, EngineRunner, fillBank, loadAdapter, ModelRunner, maxError, type Row } from '../compiler/runner.ts'
import { type Oracle, readOracle } from './oracle.ts'

const TOLERANCE = 1e-4
/** Two tokens whose logits are this close may change places between two correct programs. */
const TIE = 1e-3
const ROOT = join(import.meta.dirname, '../..')
const DEMO = join(ROOT, 'examples/demo')
const NAMES = ['clauses', 'dates', 'triage']
const VARIANTS = [undefined, ...NAMES]
const CAPACITY = 128

interface About {
  readonly sha256: Readonly<Record<string, string>>
  readonly greedy: { stop: number; continuations: Readonly<Record<string, readonly { ids: number[] }[]>> }
  readonly score: { ids: number[]; logprobs_of_ids_from_1: Readonly<Record<string, number[]>> }
  readonly mixed: { adapter_names: string[]; ids: number[][] }
}

const base = () => openFolder(join(DEMO, 'base'))
const adapter = (name: string) => ({ name, folder: openFolder(join(DEMO, 'adapters', name)) })
const key = (variant: string | undefined) => variant ?? 'base'

let oracle: Oracle
let about: About
let artifact: Compiled
let model: ModelRunner
let engine: EngineRunner
let bank: Bank

beforeAll(async () => {
  oracle = await readOracle('demo')
  about = oracle.about as unknown as About
  artifact = await compileToDisk({ base: base(), adapters: NAMES.map(adapter), target: 'routed' })
  model = await ModelRunner.open(artifact.path, artifact.manifest)
  engine = await EngineRunner.open(artifact.path, artifact.manifest)
  const adapters = await Promise.all(
    artifact.manifest.adapters.map((entry) => loadAdapter(artifact.path, artifact.manifest, entry)),
  )
  bank = fillBank(artifact.manifest, adapters.toReversed(), 16)
})

afterAll(async () => {
  await model.release()
  await engine.release()
  await artifact[Symbol.asyncDispose]()
})

const full = (rows: readonly Row[], runner: EngineRunner, using: Bank | undefined) => {
  const counts = rows.map(({ ids }) => ids.length)
  return runner.step(
    rows,
    counts.map(() => 0),
    counts,
    runner.newCache(rows.length, CAPACITY),
    using,
  )
}

it('the oracle was made from the files that are here', async () => {
  for (const [path, digest] of Object.entries(about.sha256)) {
    expect([
      path,
      createHash('sha256')
        .update(await readFile(join(ROOT, path)))
        .digest('hex'),
    ]).toEqual([path, digest])
  }
})

it('base and adapters differ by far more than the tolerance', () => {
  for (const one of VARIANTS) {
    for (const other of VARIANTS) {
      if (one === other) continue
      const apart = oracle.prompts.map((_, p) =>
        maxError(oracle.rows(`${key(one)}/p${p}`), oracle.rows(`${key(other)}/p${p}`)),
      )
      expect(Math.min(...apart)).toBeGreaterThan(0.1)
    }
  }
})

describe.each(VARIANTS.map((variant) => [variant ?? 'base', variant] as const))('%s', (_, variant) => {
  it('gives the logits of transformers and PEFT on both graphs', async () => {
    const rows = oracle.prompts.map((ids) => ({ ids, adapter: variant }))
    const fromEngine = await full(rows, engine, bank)
    const fromModel = await model.padded(rows, 'left', bank)
    for (const prompt of oracle.prompts.keys()) {
      const expected = oracle.rows(`${key(variant)}/p${prompt}`)
      expect(maxError(fromEngine[prompt]!.slice(-expected.length), expected)).toBeLessThan(TOLERANCE)
      expect(maxError(fromModel[prompt]!.slice(-expected.length), expected)).toBeLessThan(TOLERANCE)
    }
  })

  it('continues every prompt greedily with the same tokens, one at a time with a cache', async () => {
    for (const [prompt, ids] of oracle.prompts.entries()) {
      const expected = about.greedy.continuations[key(variant)]![prompt]!.ids
      const row = { ids: [...ids, ...expected], adapter: variant }
      const cache = engine.newCache(1, CAPACITY)
      let past = 0
      for (const [at, token] of expected.entries()) {
        const count = at === 0 ? ids.length : 1
        const [logits] = await engine.step([row], [past], [count], cache, bank)
        const last = logits!.at(-1)!
        past += count
        expect(Math.max(...last) - last[token]!).toBeLessThan(TIE)
      }
    }
  })

  it('scores a text as transformers does', async () => {
    const { ids, logprobs_of_ids_from_1: scores } = about.score
    const [logits] = await full([{ ids, adapter: variant }], engine, bank)
    for (const [at, expected] of scores[key(variant)]!.entries()) {
      expect(Math.abs(logProbability(logits![at]!, ids[at + 1]!) - expected)).toBeLessThan(TOLERANCE)
    }
  })
})

describe.each(NAMES)('%s, merged', (name) => {
  it('gives the logits of PEFT’s merge on both graphs', async () => {
    await using merged = await compileToDisk({ base: base(), adapters: [adapter(name)], target: 'merged' })
    const mergedModel = await ModelRunner.open(merged.path, merged.manifest)
    const mergedEngine = await EngineRunner.open(merged.path, merged.manifest)
    const rows = oracle.prompts.map((ids) => ({ ids }))
    const fromEngine = await full(rows, mergedEngine, undefined)
    const fromModel = await mergedModel.padded(rows, 'right')
    for (const prompt of oracle.prompts.keys()) {
      const expected = oracle.rows(`${name}.merged/p${prompt}`)
      expect(maxError(fromEngine[prompt]!.slice(-expected.length), expected)).toBeLessThan(TOLERANCE)
      expect(maxError(fromModel[prompt]!.slice(-expected.length), expected)).toBeLessThan(TOLERANCE)
    }
    await mergedModel.release()
    await mergedEngine.release()
  })
})

it('a batch whose rows use different adapters gives what PEFT gives for adapter_names', async () => {
  const rows = about.mixed.ids.map((ids, row) => {
    const name = about.mixed.adapter_names[row]
    return { ids, adapter: name === '__base__' ? undefined : name }
  })
  const expected = oracle.rows('mixed/last')
  const fromEngine = await full(rows, engine, bank)
  const { logits: fromModel } = await model.step(rows, 0, rows[0]!.ids.length, bank)
  for (const row of rows.keys()) {
    expect(maxError([fromEngine[row]!.at(-1)!], [expected[row]!])).toBeLessThan(TOLERANCE)
    expect(maxError([fromModel[row]!.at(-1)!], [expected[row]!])).toBeLessThan(TOLERANCE)
  }
})

function logProbability(logits: Float32Array, token: number): number {
  const max = Math.max(...logits)
  const sum = logits.reduce((total, value) => total + Math.exp(value - max), 0)
  return logits[token]! - max - Math.log(sum)
}
