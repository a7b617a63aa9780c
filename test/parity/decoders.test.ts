// Every family of decoders, random and tiny, against transformers and PEFT: what decoders-oracle.py wrote.
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { readHeader } from '../../compiler/safetensors/read.ts'
import { isFloatTensor, readFloats } from '../../compiler/safetensors/stream.ts'
import { openFolder } from '../../runtime/disk.ts'
import { type Compiled, compileToDisk } from '../compiler/folders.ts'
import { type Bank, EngineRunner, fillBank, loadAdapter, ModelRunner, maxError, range } from '../compiler/runner.ts'

const TOLERANCE = 1e-4
const ORACLE = join(import.meta.dirname, 'oracle/decoders')

interface Case {
  readonly ids: readonly number[]
  readonly prompts: readonly (readonly number[])[]
}
const { prefill, cases } = JSON.parse(await readFile(join(ORACLE, 'decoders.json'), 'utf8')) as {
  prefill: number
  cases: Record<string, Case>
}

async function readLogits(name: string): Promise<Map<string, Float32Array[]>> {
  const source = await openFolder(join(ORACLE, name)).open('logits.safetensors')
  if (source === undefined) throw new Error(`${name} has no logits`)
  const found = new Map<string, Float32Array[]>()
  for (const [key, tensor] of (await readHeader(source)).tensors) {
    if (!isFloatTensor(tensor)) throw new Error(`${key} is not of floats`)
    const [rows = 0, vocab = 0] = tensor.shape
    const values = await readFloats(tensor)
    found.set(
      key,
      range(0, rows).map((row) => values.slice(row * vocab, (row + 1) * vocab)),
    )
  }
  await source.close()
  return found
}

const compile = (name: string, target: 'routed' | 'merged') =>
  compileToDisk({
    base: openFolder(join(ORACLE, name, 'base')),
    adapters: [{ name: 'adapter', folder: openFolder(join(ORACLE, name, 'adapter')), weight: 1 }],
    target,
  })

async function decodeModel(model: ModelRunner, { ids }: Case, adapter: string | undefined, bank?: Bank) {
  const first = await model.step([{ ids, adapter }], 0, prefill, bank)
  const logits = [...first.logits[0]!]
  let past = first.results
  for (const at of range(prefill, ids.length)) {
    const step = await model.step([{ ids, adapter }], at, at + 1, bank, past)
    past = step.results
    logits.push(...step.logits[0]!)
  }
  return logits
}

async function decodeEngine(engine: EngineRunner, { ids }: Case, adapter: string | undefined, bank?: Bank) {
  const cache = engine.newCache(1, ids.length + 3, 3e38)
  const logits = (await engine.step([{ ids, adapter }], [0], [prefill], cache, bank))[0]!
  for (const at of range(prefill, ids.length)) {
    logits.push(...(await engine.step([{ ids, adapter }], [at], [1], cache, bank))[0]!)
  }
  return logits
}

describe.each(Object.entries(cases))('%s', (name, one) => {
  let expected: Map<string, Float32Array[]>
  let artifact: Compiled
  let model: ModelRunner
  let engine: EngineRunner
  let bank: Bank

  beforeAll(async () => {
    expected = await readLogits(name)
    artifact = await compile(name, 'routed')
    model = await ModelRunner.open(artifact.path, artifact.manifest)
    engine = await EngineRunner.open(artifact.path, artifact.manifest)
    const [entry] = artifact.manifest.adapters
    bank = fillBank(artifact.manifest, [await loadAdapter(artifact.path, artifact.manifest, entry!)], 7)
  })

  afterAll(async () => {
    await model.release()
    await engine.release()
    await artifact[Symbol.asyncDispose]()
  })

  it('has an oracle that tells the adapter from the base', () => {
    expect(maxError(expected.get('base/cached')!, expected.get('adapter/cached')!)).toBeGreaterThan(0.05)
  })

  it.each([undefined, 'adapter'])(
    'prefills and decodes 32 tokens as transformers does, adapter %s',
    async (adapter) => {
      const logits = expected.get(`${adapter ?? 'base'}/cached`)!
      expect(maxError(await decodeModel(model, one, adapter, bank), logits)).toBeLessThan(TOLERANCE)
      expect(maxError(await decodeEngine(engine, one, adapter, bank), logits)).toBeLessThan(TOLERANCE)
    },
  )

  it.each(['left', 'right'] as const)('gives each row of a batch padded on the %s its own logits', async (side) => {
    for (const adapter of [undefined, 'adapter']) {
      const rows = one.prompts.map((ids) => ({ ids, adapter }))
      const padded = await model.padded(rows, side, bank)
      const counts = one.prompts.map(({ length }) => length)
      const cache = engine.newCache(rows.length, 16)
      const ragged = await engine.step(
        rows,
        counts.map(() => 0),
        counts,
        cache,
        bank,
      )
      for (const row of one.prompts.keys()) {
        const logits = expected.get(`${adapter ?? 'base'}/${side}/${row}`)!
        expect(maxError(padded[row]!, logits)).toBeLessThan(TOLERANCE)
        expect(maxError(ragged[row]!, logits)).toBeLessThan(TOLERANCE)
      }
    }
  })

  it('gives the adapter’s logits when it is merged', async () => {
    await using merged = await compile(name, 'merged')
    const mergedModel = await ModelRunner.open(merged.path, merged.manifest)
    const mergedEngine = await EngineRunner.open(merged.path, merged.manifest)
    const logits = expected.get('adapter/cached')!
    expect(maxError(await decodeModel(mergedModel, one, undefined), logits)).toBeLessThan(TOLERANCE)
    expect(maxError(await decodeEngine(mergedEngine, one, undefined), logits)).toBeLessThan(TOLERANCE)
    await mergedModel.release()
    await mergedEngine.release()
  })
})
