// What adapters cost a step, against the bound: the plain step and the time to read the factors of the step's adapters.
import type { Input } from '../../gpu-backend/engine/model.ts'
import { type OpenModel, openModel } from '../../gpu-backend/engine/open.ts'
import { adapterReader } from '../../gpu-backend/engine/store.ts'
import type { Row } from '../record.ts'
import { alternate, median, round } from './alternate.ts'
import { measureBandwidth } from './bandwidth.ts'
import { type Fixture, fixtureOf, RANK, smollm2, THREADS } from './fixture.ts'
import { wideBase } from './wide-base.ts'

const ROWS = 8
const PAST_TOKENS = 96
const PROMPT_TOKENS = 128
const WARM_UP = 5

export async function routing(): Promise<Row[]> {
  const times = Number(process.env.TIMES ?? 60)
  const only = process.env.BASE
  return [
    ...(only === 'wide' ? [] : await costOf(await smollm2(), 'SmolLM2-135M int4', times)),
    ...(only === 'smollm2' ? [] : await costOf(await fixtureOf(wideBase()), 'a float32 base 2048 wide', times)),
  ]
}

async function costOf(fixture: Fixture, base: string, times: number): Promise<Row[]> {
  const config = { slots: ROWS, bankRank: RANK, maxRows: 6 * ROWS, kvBudgetBytes: 2 ** 31, threads: THREADS }
  const opened = await openModel({ ...config, artifact: fixture.artifact })
  try {
    const bytes = await fill(fixture, opened)
    const perSecond = await measureBandwidth(THREADS)
    const steps = WARM_UP + times
    const eight = Array.from({ length: ROWS }, (_, at) => at + 1)
    const none = eight.map(() => 0)
    const cases = [
      { name: 'plain 8', run: await decode(opened, none, steps) },
      { name: 'different 8', run: await decode(opened, eight, steps) },
      {
        name: 'shared 8',
        run: await decode(
          opened,
          eight.map(() => 1),
          steps,
        ),
      },
      { name: 'plain 1', run: await decode(opened, [0], steps) },
      { name: 'one 1', run: await decode(opened, [1], steps) },
      { name: 'plain prompt', run: prefill(opened, 0) },
      { name: 'one prompt', run: prefill(opened, 1) },
    ]
    const ms = await alternate(cases, times, WARM_UP)
    const of = (name: string): number => median(ms.get(name))
    const bound = of('plain 8') + (bytes / perSecond) * 1000
    const ratio = (what: string, name: string, against: string): Row => ({
      what: `${base}, ${what}`,
      value: `${(of(name) / of(against)).toFixed(2)}× (${of(name).toFixed(1)} ms of ${of(against).toFixed(1)} ms)`,
      samples: ms.get(name)!.map((sample, at) => round(sample / ms.get(against)![at]!)),
    })
    return [
      {
        what: `${base}, 8 rows with 8 different adapters (r = ${RANK}, all linears) ÷ (plain step + ${(bytes / 1e6).toFixed(0)} MB of factors at ${(perSecond / 1e9).toFixed(1)} GB/s)`,
        value: `${(of('different 8') / bound).toFixed(2)}× (${of('different 8').toFixed(1)} ms of ${bound.toFixed(1)} ms)`,
        samples: ms.get('different 8')!,
      },
      ratio('8 rows with 8 different adapters ÷ plain', 'different 8', 'plain 8'),
      ratio('8 rows sharing one adapter ÷ plain', 'shared 8', 'plain 8'),
      ratio('1 row with an adapter ÷ plain', 'one 1', 'plain 1'),
      ratio(`a prompt of ${PROMPT_TOKENS} tokens with an adapter ÷ plain`, 'one prompt', 'plain prompt'),
    ]
  } finally {
    await opened.session.release()
    await fixture.remove()
  }
}

/** Eight adapters in eight slots; gives the bytes of all. */
async function fill({ adapter, store, manifest }: Fixture, { bank }: OpenModel): Promise<number> {
  const read = adapterReader(manifest, RANK, [store])
  let bytes = 0
  for (let slot = 1; slot <= ROWS; slot++) {
    const packed = bank!.prepare(await read(await adapter(slot)))
    bank!.write(slot, packed)
    bytes += packed.bytes
  }
  return bytes
}

/** One decode step of rows that stay open. */
async function decode({ model }: OpenModel, slots: readonly number[], steps: number): Promise<() => Promise<unknown>> {
  const rows = slots.map((slot) => ({ row: model.open(PAST_TOKENS + steps), slot }))
  const prompt = Array.from({ length: PAST_TOKENS }, (_, at) => 300 + at)
  for (const { row, slot } of rows) await model.forward([{ row, slot, tokens: prompt, logits: 'none' }])
  const inputs = rows.map(({ row, slot }): Input => ({ row, slot, tokens: [42], logits: 'last' }))
  return () => model.forward(inputs)
}

/** A prompt on a row of its own, which is closed again. */
function prefill({ model }: OpenModel, slot: number): () => Promise<unknown> {
  const tokens = Array.from({ length: PROMPT_TOKENS }, (_, at) => 300 + at)
  return async () => {
    const row = model.open(PROMPT_TOKENS)
    await model.forward([{ row, slot, tokens, logits: 'last' }])
    model.close(row)
  }
}
