// A thousand adapters on one base: Zipf traffic over them with a bank of 32 slots against one adapter for all, and how long
// an adapter takes to be ready.
import { join } from 'node:path'
import { sitesOf } from '../../compiler/graph/sites.ts'
import { Bank } from '../../gpu-backend/engine/bank.ts'
import { startLoader } from '../../gpu-backend/engine/loader.ts'
import type { Packed } from '../../gpu-backend/engine/packed.ts'
import { quantile, type Row } from '../record.ts'
import { median, round } from './alternate.ts'
import { type Fixture, RANK, smollm2 } from './fixture.ts'
import { load, start } from './traffic.ts'

const ADAPTERS = 1000
/** PEFT's own choice of targets for a Llama; all linears of a thousand would be 20 GB of files. */
const TARGETS = /\.(?:q_proj|v_proj)$/
const SLOTS = 32
const CLIENTS = 8
const ROUNDS = 3
const HOST_BYTES = 512 * 1024 * 1024
const COLD = 20

export async function zipf(): Promise<Row[]> {
  const fixture = await smollm2()
  try {
    return [...(await throughput(fixture)), ...(await readiness(fixture))]
  } finally {
    await fixture.remove()
  }
}

async function throughput(fixture: Fixture): Promise<Row[]> {
  const digests: string[] = []
  for (let seed = 0; seed < ADAPTERS; seed++) digests.push(await fixture.adapter(seed, RANK, TARGETS))
  const seconds = Number(process.env.SECONDS ?? 15)
  const engine = await start(fixture, { slots: SLOTS, maxRows: CLIENTS, hostBudgetBytes: HOST_BYTES })
  const draw = zipfian(ADAPTERS)
  const asked = new Set<string>()
  const many = (): string => {
    const digest = digests[draw()]!
    asked.add(digest)
    return digest
  }
  try {
    const rates = { one: [] as number[], many: [] as number[] }
    let rss = 0
    await load(engine, { clients: CLIENTS, seconds: 2, next: many })
    for (let times = 0; times < ROUNDS; times++) {
      rates.one.push(await load(engine, { clients: CLIENTS, seconds, next: () => digests[0]! }))
      rates.many.push(await load(engine, { clients: CLIENTS, seconds, next: many }))
      rss = Math.max(rss, process.memoryUsage.rss())
    }
    const [one, of] = [median(rates.one), median(rates.many)]
    return [
      {
        what: `${ADAPTERS} adapters (r = ${RANK}, q and v), Zipf traffic over ${asked.size} of them, ${SLOTS} slots, ${HOST_BYTES / 2 ** 20} MiB of host memory for adapters, ${CLIENTS} rows: tokens a second ÷ those of one adapter`,
        value: `${(of / one).toFixed(2)}× (${of.toFixed(0)} of ${one.toFixed(0)}; RSS at most ${(rss / 2 ** 20).toFixed(0)} MiB)`,
        samples: rates.many.map((rate, at) => round(rate / rates.one[at]!)),
      },
    ]
  } finally {
    await engine.close()
  }
}

/** From the call to the moment at which a step can run it: in the host's memory, and then in the place of its row. */
async function readiness({ adapter, manifest, store }: Fixture): Promise<Row[]> {
  const sites = sitesOf(manifest.base.architecture)
  const bank = new Bank(sites, { slots: 3, rank: RANK, rows: 2 })
  const loader = startLoader({ manifest, rank: RANK, folders: [join(store, '..', 'none'), store] })
  const cold: number[] = []
  const hot: number[] = []
  let last: Packed | undefined
  try {
    for (let at = 0; at < COLD; at++) {
      const digest = await adapter(10_000 + at)
      const begun = performance.now()
      const packed = await loader.read(digest)
      bank.write(1, packed)
      cold.push(round(performance.now() - begun))
      // The row of another adapter in the batch makes it be copied beside that one's.
      if (last !== undefined) {
        bank.write(2, last)
        bank.feeds(0, [2, 0])
        const copied = performance.now()
        bank.feeds(0, [1, 0])
        hot.push(round(performance.now() - copied))
      }
      last = packed
    }
  } finally {
    await loader.close()
  }
  const row = (what: string, samples: number[]): Row => ({
    what,
    value: `${median(samples).toFixed(1)} ms (p95 ${quantile(samples, 0.95).toFixed(1)} ms)`,
    samples,
  })
  return [
    row(`an adapter (r = ${RANK}, all linears) ready from disk: read, hashed, checked, laid out`, cold.slice(2)),
    row('an adapter ready from host memory, copied beside those of other rows', hot.slice(2)),
  ]
}

/** Ranks 0 … count - 1, the k-th as often as 1 / (k + 1). */
function zipfian(count: number): () => number {
  const sums: number[] = []
  let sum = 0
  for (let rank = 0; rank < count; rank++) {
    sum += 1 / (rank + 1)
    sums.push(sum)
  }
  let state = 7
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    const at = (state / 2 ** 32) * sum
    return sums.findIndex((end) => end >= at)
  }
}
