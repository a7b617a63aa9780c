// Invariants 1 to 4 of the design, on the graphs themselves: what an adapter may not do to anybody else.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { CompiledAdapter } from '../../compiler/read-adapter.ts'
import { openFolder } from '../../runtime/disk.ts'
import { type Compiled, compileToDisk, TINY } from './folders.ts'
import {
  type Bank,
  EngineRunner,
  fillBank,
  type Logits,
  loadAdapter,
  ModelRunner,
  maxError,
  type Row,
} from './runner.ts'

/** What batching may change: the kernels sum in another order for another number of rows. */
const TOLERANCE = 1e-5
const IDS = [23, 81, 85, 45, 74, 5, 9]
const OTHER_IDS = [30, 27, 5, 73, 15, 36, 54]

let baseDigest: string
let routed: Compiled
let plain: Compiled
let adapters: CompiledAdapter[]
let bank: Bank
let run: Record<'model' | 'engine', (rows: readonly Row[], bank: Bank | undefined) => Promise<Logits>>
const opened: { release(): Promise<void> }[] = []

const digestOfBase = async () =>
  createHash('sha256')
    .update(await readFile(join(TINY, 'base/model.safetensors')))
    .digest('hex')

beforeAll(async () => {
  baseDigest = await digestOfBase()
  const base = openFolder(join(TINY, 'base'))
  const inputs = ['a', 'b'].map((name) => ({ name, folder: openFolder(join(TINY, name)) }))
  routed = await compileToDisk({ base, adapters: inputs, target: 'routed' })
  plain = await compileToDisk({ base, adapters: [], target: 'merged' })
  adapters = await Promise.all(
    routed.manifest.adapters.map((entry) => loadAdapter(routed.path, routed.manifest, entry)),
  )
  bank = fillBank(routed.manifest, adapters, 5)
  const models = await open(ModelRunner)
  const engines = await open(EngineRunner)
  opened.push(...Object.values(models), ...Object.values(engines))
  run = {
    async model(rows, bank) {
      const runner = bank === undefined ? models.plain : models.routed
      return (await runner.step(rows, 0, IDS.length, bank)).logits
    },
    async engine(rows, bank) {
      const runner = bank === undefined ? engines.plain : engines.routed
      const zeros = rows.map(() => 0)
      return runner.step(
        rows,
        zeros,
        rows.map(() => IDS.length),
        runner.newCache(rows.length, 8),
        bank,
      )
    },
  }
})

async function open<T>(kind: { open(path: string, manifest: Compiled['manifest']): Promise<T> }) {
  return {
    routed: await kind.open(routed.path, routed.manifest),
    plain: await kind.open(plain.path, plain.manifest),
  }
}

afterAll(async () => {
  for (const runner of opened) await runner.release()
  await routed[Symbol.asyncDispose]()
  await plain[Symbol.asyncDispose]()
})

/** A copy of the bank with one slot's factors overwritten. */
function overwrite(slot: number, factor: 'lora_A' | 'lora_B' | '', value: number): Bank {
  const feeds = Object.fromEntries(
    Object.entries(bank.feeds).map(([name, { data, dims }]) => {
      const copy = (data as Float32Array).slice()
      const size = copy.length / (dims[0] as number)
      if (name.endsWith(factor)) copy.fill(value, slot * size, (slot + 1) * size)
      return [name, { data: copy, dims }]
    }),
  )
  return { ...bank, feeds }
}

describe.each(['model', 'engine'] as const)('%s.onnx', (form) => {
  it('gives the bits of the graph without a bank where every row uses slot 0', async () => {
    const rows = [{ ids: IDS }, { ids: OTHER_IDS }]
    expect(await run[form](rows, bank)).toEqual(await run[form](rows, undefined))
  })

  it('gives the bits of the base where an adapter’s B is 0', async () => {
    const rows = [{ ids: IDS, adapter: 'a' }, { ids: OTHER_IDS }]
    const base = rows.map(({ ids }) => ({ ids }))
    expect(await run[form](rows, overwrite(1, 'lora_B', 0))).toEqual(await run[form](base, undefined))
  })

  it('does not change a bit of rows that do not use a slot full of NaN', async () => {
    const rows = [{ ids: IDS }, { ids: OTHER_IDS, adapter: 'b' }, { ids: IDS, adapter: 'b' }]
    const poisoned = overwrite(1, '', Number.NaN)
    expect(await run[form](rows, poisoned)).toEqual(await run[form](rows, bank))
  })

  it('gives NaN only to the rows that do use it', async () => {
    const rows = [{ ids: IDS }, { ids: IDS, adapter: 'a' }, { ids: IDS, adapter: 'b' }]
    const clean = await run[form](rows, bank)
    const dirty = await run[form](rows, overwrite(1, '', Number.NaN))
    expect(dirty[0]).toEqual(clean[0])
    expect(dirty[2]).toEqual(clean[2])
    expect(dirty[1]?.every((logits) => logits.every(Number.isNaN))).toBe(true)
  })

  it('gives a row the same logits whatever its neighbours use', async () => {
    const alone = await run[form]([{ ids: IDS, adapter: 'a' }], bank)
    for (const neighbour of [undefined, 'a', 'b']) {
      const rows = [
        { ids: OTHER_IDS, adapter: neighbour },
        { ids: IDS, adapter: 'a' },
        { ids: IDS, adapter: neighbour },
      ]
      const together = await run[form](rows, bank)
      expect(maxError(together[1]!, alone[0]!)).toBeLessThan(TOLERANCE)
    }
  })

  it('gives each adapter another answer, so that none of this is vacuous', async () => {
    const rows = [{ ids: IDS }, { ids: IDS, adapter: 'a' }, { ids: IDS, adapter: 'b' }]
    const [base, a, b] = await run[form](rows, bank)
    for (const [one, other] of [
      [base, a],
      [base, b],
      [a, b],
    ])
      expect(maxError(one!, other!)).toBeGreaterThan(0.1)
  })

  it('does not care in which slot an adapter lies, nor how far the bank’s rank exceeds its own', async () => {
    const rows = [
      { ids: IDS, adapter: 'a' },
      { ids: OTHER_IDS, adapter: 'b' },
    ]
    const shuffled = fillBank(routed.manifest, [adapters[1]!, adapters[1]!, adapters[0]!], 11)
    const before = await run[form](rows, bank)
    const after = await run[form](rows, shuffled)
    for (const row of [0, 1]) expect(maxError(after[row]!, before[row]!)).toBeLessThan(TOLERANCE)
  })
})

describe('merging', () => {
  it('of adapters with weights equals the weighted sum of their deltas, negative ones included', async () => {
    const base = openFolder(join(TINY, 'base'))
    const merge = (a: number, b: number) =>
      compileToDisk({
        base,
        adapters: [
          { name: 'a', folder: openFolder(join(TINY, 'a')), weight: a },
          { name: 'b', folder: openFolder(join(TINY, 'b')), weight: b },
        ],
        target: 'merged',
      })
    await using merged = await merge(0.5, -0.75)
    const weights = async (artifact: Compiled) =>
      new Float32Array(new Uint8Array(await readFile(join(artifact.path, 'model.onnx_data'))).buffer)
    const [before, after] = [await weights(plain), await weights(merged)]
    await using one = await merge(0.5, Number.MIN_VALUE)
    await using other = await merge(Number.MIN_VALUE, -0.75)
    const [onlyA, onlyB] = [await weights(one), await weights(other)]
    let changed = 0
    for (const [i, w] of before.entries()) {
      const expected = w + (onlyA[i]! - w) + (onlyB[i]! - w)
      if (Math.abs(after[i]! - expected) > 2e-6) throw new Error(`weight ${i}: ${after[i]}, expected ${expected}`)
      if (after[i] !== w) changed += 1
    }
    expect(changed).toBeGreaterThan(10_000)
  })

  it('and routing leave the bytes of the base alone', async () => {
    expect(await digestOfBase()).toBe(baseDigest)
  })
})
