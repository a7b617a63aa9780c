// What a prompt costs whose beginning has run before: time to the first token with and without reuse, and the copies.
import { openModel } from '../../gpu-backend/engine/open.ts'
import { BLOCK_TOKENS } from '../../gpu-backend/engine/prefix-cache.ts'
import { quantile, type Row } from '../record.ts'
import { median, round } from './alternate.ts'
import { type Fixture, smollm2, THREADS } from './fixture.ts'
import { start } from './traffic.ts'

const SHARED_TOKENS = 1_000
const OWN_TOKENS = 24
const VOCABULARY = 40_000

type Engine = Awaited<ReturnType<typeof start>>

/** What int4 has where nothing else is asked for, and the faster one. */
const ACTIVATIONS = { float: 1, int8: 4 }

export async function prefix(): Promise<Row[]> {
  const rows: Row[] = []
  for (const [name, level] of Object.entries(ACTIVATIONS)) {
    const fixture = await smollm2(level)
    try {
      if (name === 'float') rows.push(...(await firstTokens(fixture)), ...(await copies(fixture)))
      rows.push(...(await tolerance(fixture, name)))
    } finally {
      await fixture.remove()
    }
  }
  return rows
}

async function firstTokens(fixture: Fixture): Promise<Row[]> {
  const times = Number(process.env.TIMES ?? 7)
  const adapter = await fixture.adapter(1)
  const [reusing, not] = [await start(fixture), await start(fixture, { prefixBudgetBytes: 0 })]
  const names = ['reused', 'same prompt, no reuse', 'reuse on, nothing to reuse'] as const
  const found = new Map<string, number[]>(names.map((name) => [name, []]))
  const shared = prompt(7, SHARED_TOKENS)
  let same = true
  try {
    for (const engine of [reusing, not]) await ask(engine, adapter, [...shared, ...prompt(11, OWN_TOKENS)])
    for (let at = 0; at < times; at++) {
      const own = prompt(100 + at, OWN_TOKENS)
      const [hit, miss] = [
        await ask(reusing, adapter, [...shared, ...own]),
        await ask(not, adapter, [...shared, ...own]),
      ]
      const cold = await ask(reusing, adapter, prompt(1_000 + at, SHARED_TOKENS + OWN_TOKENS))
      for (const [index, { ms }] of [hit, miss, cold].entries()) found.get(names[index]!)!.push(ms)
      same &&= hit.ids.join() === miss.ids.join()
    }
    const cached = reusing.stats.prefixes!
    const base = `SmolLM2-135M int4 (float activations) with an adapter, ${SHARED_TOKENS} tokens that ran before and ${OWN_TOKENS} of its own`
    const [hit, miss, cold] = names.map((name) => median(found.get(name)))
    return [
      ...names.map((name) => {
        const samples = found.get(name)!
        return {
          what: `${base}: time to the first token, ${name}`,
          value: `${median(samples).toFixed(0)} ms (p95 ${quantile(samples, 0.95).toFixed(0)} ms)`,
          samples,
        }
      }),
      { what: `${base}: no reuse ÷ reused`, value: `${(miss! / hit!).toFixed(1)}×` },
      {
        what: 'what keeping blocks adds to a prompt of which nothing is reused',
        value: `${(cold! / miss!).toFixed(2)}×`,
      },
      { what: 'the greedy answers (8 tokens) with and without reuse', value: same ? 'equal' : 'NOT equal' },
      {
        what: `host memory of the prefixes after ${times + 1} prompts with one beginning and ${times} others`,
        value: `${(cached.bytes / 2 ** 20).toFixed(0)} MiB of 256`,
      },
    ]
  } finally {
    await reusing.close()
    await not.close()
  }
}

/** How far logits move by reuse, and by chunks of another size alone. */
async function tolerance({ artifact }: Fixture, activations: string): Promise<Row[]> {
  const { model, session } = await openModel({
    artifact,
    slots: 1,
    bankRank: 1,
    maxRows: 3,
    kvBudgetBytes: 2 ** 30,
    prefixBudgetBytes: 2 ** 28,
    threads: THREADS,
  })
  const blocks = 15
  const moved = { reuse: [] as number[], chunks: [] as number[] }
  try {
    for (let at = 0; at < 5; at++) {
      const tokens = prompt(50 + at, blocks * BLOCK_TOKENS + OWN_TOKENS)
      const [whole, reusing, other] = [model.open(300), model.open(300), model.open(300)]
      const run = async (row: typeof whole, chunk: number): Promise<Float32Array> => {
        let last = new Float32Array()
        while (row.length < tokens.length) {
          const part = tokens.slice(row.length, row.length + chunk)
          const [output] = await model.forward([{ row, slot: 0, tokens: part, logits: 'last' }])
          last = output!.logits[0]!.slice()
        }
        return last
      }
      const expected = await run(whole, 128)
      for (let index = 0; index < blocks; index++) {
        const keys = [`${at} ${index}`, index === 0 ? undefined : `${at} ${index - 1}`] as const
        model.prefixes!.keepBlock(whole, index * BLOCK_TOKENS, ...keys)
        model.prefixes!.restoreBlocks(reusing, [keys[0]])
      }
      const furthest = (found: Float32Array): number =>
        Math.max(...found.map((logit, id) => Math.abs(logit - expected[id]!)))
      moved.reuse.push(furthest(await run(reusing, 128)))
      moved.chunks.push(furthest(await run(other, 96)))
      for (const row of [whole, reusing, other]) model.close(row)
    }
  } finally {
    await session.release()
  }
  const row = (what: string, samples: number[]): Row => ({
    what: `int4 with ${activations} activations: the furthest that a logit moves by ${what}`,
    value: Math.max(...samples).toExponential(1),
    samples,
  })
  return [row('reuse', moved.reuse), row('chunks of 96 tokens and not 128, without reuse', moved.chunks)]
}

async function copies({ artifact, manifest }: Fixture): Promise<Row[]> {
  const { model, session } = await openModel({
    artifact,
    slots: 1,
    bankRank: 1,
    maxRows: 2,
    kvBudgetBytes: 2 ** 30,
    prefixBudgetBytes: 2 ** 28,
    threads: THREADS,
  })
  const blocks = Math.floor(SHARED_TOKENS / BLOCK_TOKENS)
  const { layers, kvHeads, headDim } = manifest.base.architecture
  const bytes = blocks * BLOCK_TOKENS * layers * kvHeads * headDim * 2 * Float32Array.BYTES_PER_ELEMENT
  const kept: number[] = []
  const restored: number[] = []
  try {
    for (let at = 0; at < 12; at++) {
      const from = model.open(SHARED_TOKENS)
      for (let token = 0; token < blocks * BLOCK_TOKENS; token += 8 * BLOCK_TOKENS) {
        const tokens = prompt(at, Math.min(8 * BLOCK_TOKENS, blocks * BLOCK_TOKENS - token))
        await model.forward([{ row: from, slot: 0, tokens, logits: 'none' }])
        if (at > 0) break
      }
      const to = model.open(SHARED_TOKENS)
      const keys = Array.from({ length: Math.floor(from.length / BLOCK_TOKENS) }, (_, index) => `${at} ${index}`)
      const begun = performance.now()
      for (const [index, key] of keys.entries()) {
        model.prefixes!.keepBlock(from, index * BLOCK_TOKENS, key, index === 0 ? undefined : keys[index - 1])
      }
      const between = performance.now()
      model.prefixes!.restoreBlocks(to, keys)
      const ended = performance.now()
      kept.push(round(((between - begun) / keys.length) * blocks))
      restored.push(round(((ended - between) / keys.length) * blocks))
      model.close(from)
      model.close(to)
    }
  } finally {
    await session.release()
  }
  const row = (what: string, all: number[]): Row => {
    const samples = all.slice(2)
    const ms = median(samples)
    return {
      what: `${blocks * BLOCK_TOKENS} tokens (${(bytes / 2 ** 20).toFixed(0)} MiB, ${(bytes / blocks / BLOCK_TOKENS / 1000).toFixed(0)} kB a token) ${what}`,
      value: `${ms.toFixed(1)} ms, ${(bytes / ms / 1e6).toFixed(1)} GB/s`,
      samples,
    }
  }
  return [row('copied out of a row into blocks', kept), row('copied out of blocks into a row', restored)]
}

/** Milliseconds to the first token, and a few tokens to compare. */
async function ask(engine: Engine, adapter: string, promptIds: number[]): Promise<{ ms: number; ids: number[] }> {
  const sampling = { temperature: 0, topP: 1, seed: 1 }
  const ids: number[] = []
  let ms = 0
  const begun = performance.now()
  for await (const piece of engine.generate({
    promptIds,
    maxTokens: 8,
    sampling,
    stop: [],
    adapter,
    tenant: 'bench',
  })) {
    if (ids.length === 0) ms = round(performance.now() - begun)
    ids.push(...piece.ids)
  }
  return { ms, ids }
}

/** Tokens of no text, which run as long as any. */
function prompt(seed: number, count: number): number[] {
  let state = seed
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return 100 + (state % VOCABULARY)
  })
}
