// Adapters that change different linears, in one batch: what nobody changes is shared zeros, and each row's logits are
// those that it has alone.
import { expect, test } from 'vitest'
import type { Linear } from '../../compiler/contract.ts'
import { openModel } from '../../gpu-backend/engine/open.ts'
import type { Factors } from '../../gpu-backend/engine/packed.ts'
import { compileTiny } from './artifacts.ts'

const PROMPT = [5, 9, 11, 3, 17, 2, 8]

/** Large enough to be told from the base, of the rank `r`. */
function factors(digest: string, linears: readonly Linear[], r: number): Factors {
  let state = digest.length
  const next = (): number => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32 - 0.5
  }
  const made = (size: number) => Float32Array.from({ length: size }, next)
  return { digest, modules: new Map(linears.map((at) => [at.module, { r, A: made(at.in * r), B: made(r * at.out) }])) }
}

test('rows whose adapters change different linears have the logits that they have alone, in any company', async () => {
  const { path, manifest } = await compileTiny()
  const { session, model, bank } = await openModel({
    artifact: path,
    threads: 1,
    slots: 4,
    bankRank: 8,
    maxRows: 8,
    kvBudgetBytes: 2 ** 28,
  })
  const ending = (end: string) => manifest.bank.filter(({ module }) => module.endsWith(end))
  const kinds: [string, readonly Linear[], number][] = [
    ['all', manifest.bank, 5],
    ['down_', ending('down_proj').slice(0, 1), 3],
    ['query__', ending('q_proj'), 2],
    ['up_and_v', [...ending('up_proj'), ...ending('v_proj')], 7],
  ]
  for (const [at, [digest, linears, r]] of kinds.entries()) {
    expect(linears.length).toBeGreaterThan(0)
    bank!.write(at + 1, bank!.prepare(factors(digest, linears, r)))
  }
  const logits = async (slots: readonly number[]): Promise<Float32Array[]> => {
    const rows = slots.map((slot) => ({
      row: model.open(PROMPT.length),
      slot,
      tokens: PROMPT,
      logits: 'last' as const,
    }))
    const outputs = await model.forward(rows)
    for (const { row } of rows) model.close(row)
    return outputs.map((output) => output.logits[0]!.slice())
  }
  const furthest = (a: Float32Array, b: Float32Array) => Math.max(...a.map((value, i) => Math.abs(value - b[i]!)))
  try {
    const alone: Float32Array[] = []
    for (const slot of [0, 1, 2, 3, 4]) alone.push((await logits([slot]))[0]!)
    for (const [slot, found] of alone.entries()) {
      for (const other of alone.slice(slot + 1)) expect(furthest(found, other)).toBeGreaterThan(1e-2)
    }
    // Without the first site, with everything, and then with less again in the places of those that changed more.
    const batches = [
      [2, 0],
      [2, 4, 0],
      [1, 2, 3, 4, 0, 1],
      [0, 2, 2, 0, 2],
      [4, 3],
      [3, 0, 2],
      [2, 0],
      [1, 0],
      [0, 2],
    ]
    for (const slots of batches) {
      for (const [at, found] of (await logits(slots)).entries()) {
        expect(furthest(found, alone[slots[at]!]!), `row ${at} of ${slots}`).toBeLessThan(1e-4)
      }
    }
  } finally {
    await session.release()
  }
})
