// A thousand adapters on one base: Zipf traffic over them with a bank of 32 slots against the same traffic with one adapter
// for all, and whether memory keeps to its budget meanwhile.
import type { EngineClient } from '../../gpu-backend/engine/client.ts'
import type { Row } from '../record.ts'
import { median, round } from './alternate.ts'
import { type Fixture, RANK, smollm2 } from './fixture.ts'
import { type Ask, load, start } from './traffic.ts'

const ADAPTERS = 1000
/** PEFT's own choice of targets for a Llama; all linears of a thousand would be 20 GB of files. */
const TARGETS = /\.(?:q_proj|v_proj)$/
const SLOTS = 32
const CLIENTS = 8
const ROUNDS = 4
const HOST_BYTES = 512 * 1024 * 1024
/** Loads before it begins, drawn like the traffic: host memory then is as after hours of it. */
const LOADS_BEFORE = 400
/** Answers of one length would keep the rows in step, which spares one adapter for all more than it does many. */
const ANSWER_TOKENS = { least: 16, most: 112 }
const WARM_UP_SECONDS = 4
const SAMPLE_MS = 500
const MIB = 2 ** 20

export async function zipf(): Promise<Row[]> {
  const seconds = Number(process.env.SECONDS ?? 12)
  const fixture = await smollm2()
  try {
    const digests: string[] = []
    for (let seed = 0; seed < ADAPTERS; seed++) digests.push(await fixture.adapter(seed, RANK, TARGETS))
    return await measure(fixture, digests, seconds)
  } finally {
    await fixture.remove()
  }
}

async function measure(fixture: Fixture, digests: readonly string[], seconds: number): Promise<Row[]> {
  const engine = await start(fixture, { slots: SLOTS, maxRows: CLIENTS, hostBudgetBytes: HOST_BYTES })
  const random = randomNumbers()
  const draw = zipfian(ADAPTERS, random)
  const asked = new Set<string>()
  const many = (): string => {
    const digest = digests[draw()]!
    asked.add(digest)
    return digest
  }
  try {
    await run(engine, WARM_UP_SECONDS, random, () => null)
    const rssBefore = process.memoryUsage.rss()
    for (let at = 0; at < LOADS_BEFORE; at++) await engine.load(digests[draw()]!)
    const memory = watch(engine)
    await run(engine, WARM_UP_SECONDS, random, many)
    asked.clear()
    const rates = { one: [] as number[], many: [] as number[] }
    for (let times = 0; times < ROUNDS; times++) {
      rates.one.push(await run(engine, seconds, random, () => digests[0]!))
      rates.many.push(await run(engine, seconds, random, many))
    }
    const { adapters, rss } = memory.stop()
    const ratios = rates.many.map((rate, at) => round(rate / rates.one[at]!))
    const mib = (bytes: number): string => `${(bytes / MIB).toFixed(0)} MiB`
    const [early, late] = [rss.slice(0, rss.length / 4), rss.slice((3 * rss.length) / 4)]
    return [
      {
        what: `${ADAPTERS} adapters (r = ${RANK}, q and v), Zipf traffic over ${asked.size} of them, ${SLOTS} slots, ${CLIENTS} rows: tokens a second ÷ those of one adapter`,
        value: `${median(ratios).toFixed(2)}× (${median(rates.many).toFixed(0)} of ${median(rates.one).toFixed(0)})`,
        samples: ratios,
      },
      {
        what: `meanwhile, MiB of adapters in host memory, of a budget of ${mib(HOST_BYTES)}, every ${SAMPLE_MS} ms`,
        value: `at most ${mib(Math.max(...adapters))}`,
        samples: adapters.map((bytes) => round(bytes / MIB)),
      },
      {
        what: `meanwhile, MiB of the whole process (RSS), ${mib(rssBefore)} before there was any adapter, every ${SAMPLE_MS} ms`,
        value: `median ${mib(median(early))} in the first quarter, ${mib(median(late))} in the last, at most ${mib(Math.max(...rss))}`,
        samples: rss.map((bytes) => round(bytes / MIB)),
      },
    ]
  } finally {
    await engine.close()
  }
}

function run(engine: EngineClient, seconds: number, random: () => number, adapter: () => string | null) {
  const { least, most } = ANSWER_TOKENS
  const next = (): Ask => ({ adapter: adapter(), maxTokens: Math.floor(least + random() * (most - least + 1)) })
  return load(engine, { clients: CLIENTS, seconds, next })
}

function watch(engine: EngineClient): { stop(): { adapters: number[]; rss: number[] } } {
  const adapters: number[] = []
  const rss: number[] = []
  const timer = setInterval(() => {
    adapters.push(engine.stats.adapterBytes ?? 0)
    rss.push(process.memoryUsage.rss())
  }, SAMPLE_MS)
  return {
    stop() {
      clearInterval(timer)
      return { adapters, rss }
    },
  }
}

/** From 0 to 1, the same at every run. */
function randomNumbers(): () => number {
  let state = 7
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}

/** Ranks 0 … count - 1, the k-th as often as 1 / (k + 1). */
function zipfian(count: number, random: () => number): () => number {
  const sums: number[] = []
  let sum = 0
  for (let rank = 0; rank < count; rank++) {
    sum += 1 / (rank + 1)
    sums.push(sum)
  }
  return () => {
    const drawn = random() * sum
    return sums.findIndex((end) => end >= drawn)
  }
}
