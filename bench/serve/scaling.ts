// Tokens a second against the rows of a step, and against the adapters that are resident. `node scripts/scaling.ts` draws
// docs/scaling.svg from what is recorded.
import type { Input } from '../../gpu-backend/engine/model.ts'
import { type OpenModel, openModel } from '../../gpu-backend/engine/open.ts'
import { adapterReader } from '../../gpu-backend/engine/store.ts'
import type { Line, Row } from '../record.ts'
import { alternate, median, round } from './alternate.ts'
import { type Fixture, RANK, smollm2, THREADS } from './fixture.ts'

const ROWS = [1, 2, 4, 8, 16]
const RESIDENT = [1, 4, 16, 64, 256]
const MOST_ROWS = 16
const PAST_TOKENS = 16
const WARM_UP = 3
/** Steps before the rows change to other adapters. */
const STEPS_OF_ANSWER = 16
/** 256 adapters on all linears would be 5 GB. */
const TARGETS = /\.(?:q_proj|v_proj)$/

export async function scaling(): Promise<Row[]> {
  const fixture = await smollm2()
  const times = Number(process.env.TIMES ?? 30)
  try {
    return [...(await overRows(fixture, times)), await overResident(fixture, times)]
  } finally {
    await fixture.remove()
  }
}

async function overRows(fixture: Fixture, times: number): Promise<Row[]> {
  const open = await opened(fixture, MOST_ROWS, 3 * ROWS.reduce((sum, count) => sum + count))
  try {
    await fill(fixture, open, MOST_ROWS, /./)
    const kinds: [string, (at: number) => number][] = [
      ['base', () => 0],
      ['one adapter', () => 1],
      ['an adapter a row', (at) => at + 1],
    ]
    const cases = []
    for (const count of ROWS) {
      for (const [kind, slotOf] of kinds) {
        const slots = Array.from({ length: count }, (_, at) => slotOf(at))
        cases.push({ name: `${kind} ${count}`, run: await decode(open, slots, times + WARM_UP) })
      }
    }
    const ms = await alternate(cases, times, Math.min(WARM_UP, times))
    const rate = (kind: string, count: number) => (count / median(ms.get(`${kind} ${count}`))) * 1000
    return kinds.map(([name]) => {
      const line = { title: 'rows of a step', name, points: ROWS.map((x) => ({ x, y: rate(name, x) })) }
      return rowOf(`rows ${ROWS.join(', ')}, ${name}`, line)
    })
  } finally {
    await open.session.release()
  }
}

async function overResident(fixture: Fixture, times: number): Promise<Row> {
  const most = Math.max(...RESIDENT)
  const count = 8
  const open = await opened(fixture, most, count)
  try {
    await fill(fixture, open, most, TARGETS)
    let next = 0
    const cases = RESIDENT.map((resident) => ({
      name: String(resident),
      async run() {
        const slots = Array.from({ length: count }, () => 1 + (next++ % resident))
        const step = await decode(open, slots, STEPS_OF_ANSWER)
        const begun = performance.now()
        for (let at = 0; at < STEPS_OF_ANSWER; at++) await step()
        spent.get(resident)!.push((count * STEPS_OF_ANSWER * 1000) / (performance.now() - begun))
        step.close()
      },
    }))
    const spent = new Map<number, number[]>(RESIDENT.map((resident) => [resident, []]))
    await alternate(cases, Math.max(3, Math.ceil(times / 4)), 0)
    const points = RESIDENT.map((x) => ({ x, y: median(spent.get(x)) }))
    const title = `resident adapters (q and v); ${count} rows, which change theirs every ${STEPS_OF_ANSWER} steps`
    return rowOf(`${count} rows over ${RESIDENT.join(', ')} resident adapters (q and v)`, {
      title,
      name: 'an adapter a row',
      points,
    })
  } finally {
    await open.session.release()
  }
}

function opened({ artifact }: Fixture, slots: number, maxRows: number): Promise<OpenModel> {
  return openModel({ artifact, slots, bankRank: RANK, maxRows, kvBudgetBytes: 2 ** 31, threads: THREADS })
}

async function fill({ adapter, manifest, store }: Fixture, { bank }: OpenModel, slots: number, targets: RegExp) {
  const read = adapterReader(manifest, RANK, [store])
  for (let slot = 1; slot <= slots; slot++) {
    bank!.write(slot, bank!.prepare(await read(await adapter(slot, RANK, targets))))
  }
}

interface Step {
  (): Promise<unknown>
  close(): void
}

async function decode({ model }: OpenModel, slots: readonly number[], steps: number): Promise<Step> {
  const rows = slots.map((slot) => ({ row: model.open(PAST_TOKENS + steps), slot }))
  const prompt = Array.from({ length: PAST_TOKENS }, (_, at) => 300 + at)
  for (const { row, slot } of rows) await model.forward([{ row, slot, tokens: prompt, logits: 'none' }])
  const inputs = rows.map(({ row, slot }): Input => ({ row, slot, tokens: [42], logits: 'last' }))
  const close = (): void => {
    for (const { row } of rows) model.close(row)
  }
  return Object.assign(() => model.forward(inputs), { close })
}

function rowOf(what: string, line: Line): Row {
  const points = line.points.map(({ x, y }) => ({ x, y: round(y) }))
  const values = points.map(({ y }) => Math.round(y))
  return {
    what: `SmolLM2-135M int4, ${what}: tokens a second`,
    value: values.join(', '),
    line: { ...line, points },
  }
}
