// The seam to the graph: rows are rows, whatever the other rows and slots hold.
import { expect, test } from 'vitest'
import { type OpenModel, openModel } from '../../gpu-backend/engine/open.ts'
import type { Packed } from '../../gpu-backend/engine/packed.ts'
import { type Artifact, compileTiny } from './artifacts.ts'

const CONFIG = { slots: 2, bankRank: 5, maxRows: 4, kvBudgetBytes: 1e8, threads: 1 }
const PROMPT = [23, 81, 85, 45, 74]

function filled({ manifest }: Artifact, bank: NonNullable<OpenModel['bank']>, value: number): Packed {
  const modules = manifest.bank.map(({ module, in: inputs, out }) => {
    const pair = { r: 5, A: new Float32Array(inputs * 5).fill(value), B: new Float32Array(5 * out).fill(value) }
    return [module, pair] as const
  })
  return bank.prepare({ digest: 'x'.repeat(64), modules: new Map(modules) })
}

async function logitsOf(
  { model }: OpenModel,
  slots: readonly number[],
): Promise<{ logits: number[]; finite: boolean }[]> {
  const rows = slots.map((slot) => ({ row: model.open(10), slot }))
  const outputs = await model.forward(rows.map(({ row, slot }) => ({ row, slot, tokens: PROMPT, logits: 'last' })))
  for (const { row } of rows) model.close(row)
  return outputs.map(({ logits, finite }) => ({ logits: [...logits[0]!], finite }))
}

test('a slot full of NaN does not change a bit of the rows that do not use it, and its own row is found out', async () => {
  const tiny = await compileTiny()
  const opened = await openModel({ ...CONFIG, artifact: tiny.path })
  opened.bank!.write(1, filled(tiny, opened.bank!, 0.01))
  const [base, one] = await logitsOf(opened, [0, 1, 2])
  opened.bank!.write(2, filled(tiny, opened.bank!, Number.NaN))
  const [baseAfter, oneAfter, bad] = await logitsOf(opened, [0, 1, 2])
  expect(baseAfter).toEqual(base)
  expect(oneAfter).toEqual(one)
  expect(one!.logits).not.toEqual(base!.logits)
  expect(bad!.finite).toBe(false)
  // The place of the bad row is used again: nothing of it may be left.
  opened.bank!.write(2, filled(tiny, opened.bank!, 0))
  const [, , again] = await logitsOf(opened, [0, 1, 0])
  expect(again).toEqual(base)
  await opened.session.release()
})

test('a base row is the same, bit for bit, alone among base rows and beside adapters', async () => {
  const tiny = await compileTiny()
  const opened = await openModel({ ...CONFIG, artifact: tiny.path })
  opened.bank!.write(1, filled(tiny, opened.bank!, 0.01))
  const [alone] = await logitsOf(opened, [0, 0])
  const [beside] = await logitsOf(opened, [0, 1])
  expect(beside).toEqual(alone)
  await opened.session.release()
})

test('an adapter that stays alone goes on as it would beside others, in another graph', async () => {
  const tiny = await compileTiny()
  const opened = await openModel({ ...CONFIG, artifact: tiny.path })
  opened.bank!.write(1, filled(tiny, opened.bank!, 0.01))
  const run = async (slots: readonly number[]): Promise<Float32Array[]> => {
    const rows = slots.map((slot) => ({ row: opened.model.open(40), slot }))
    const first: Float32Array[] = []
    for (let step = 0; step < 20; step++) {
      const inputs = rows.map(({ row, slot }) => ({ row, slot, tokens: [20 + step], logits: 'last' as const }))
      const [output] = await opened.model.forward(inputs)
      first.push(output!.logits[0]!)
    }
    for (const { row } of rows) opened.model.close(row)
    return first
  }
  const alone = await run([1, 1, 1])
  const beside = await run([1, 0])
  for (const [step, logits] of alone.entries()) {
    expect(Math.max(...logits.map((logit, id) => Math.abs(logit - beside[step]![id]!)))).toBeLessThan(1e-4)
  }
  await opened.session.release()
})

test('outputs come in the order of the inputs, however the rows lie', async () => {
  const tiny = await compileTiny()
  const opened = await openModel({ ...CONFIG, artifact: tiny.path })
  const { model } = opened
  const rows = [0, 1, 2, 3].map(() => model.open(20))
  const input = (at: number) => ({ row: rows[at]!, slot: 0, tokens: [10 + at, 20 + at], logits: 'all' as const })
  const ordered = await model.forward([0, 1, 2, 3].map(input))
  for (const row of rows) model.close(row)
  const fresh = [0, 1, 2, 3].map(() => model.open(20))
  rows.splice(0, 4, ...fresh)
  const [three, zero] = await model.forward([input(3), input(0)])
  const close = (a: Float32Array, b: Float32Array): void => {
    for (const [at, value] of a.entries()) expect(value).toBeCloseTo(b[at]!, 4)
  }
  for (const token of [0, 1]) {
    close(three!.logits[token]!, ordered[3]!.logits[token]!)
    close(zero!.logits[token]!, ordered[0]!.logits[token]!)
  }
  await opened.session.release()
})
