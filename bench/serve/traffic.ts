// Requests to an engine in its own thread, as the HTTP side would make them, and how fast they were answered.
import { type EngineClient, startEngine } from '../../gpu-backend/engine/client.ts'
import { defaultEngineConfig, type EngineConfig } from '../../gpu-backend/engine/request.ts'
import { type Fixture, RANK, THREADS } from './fixture.ts'

export const PROMPT_TOKENS = 16
export const ANSWER_TOKENS = 64

export function start({ artifact, store }: Fixture, config: Partial<EngineConfig> = {}): Promise<EngineClient> {
  const own = { artifact, storeDirs: [store], bankRank: RANK, threads: THREADS, kvBudgetBytes: 2 ** 30 }
  return startEngine({ ...defaultEngineConfig, ...own, ...config }, () => {})
}

/** Greedy; gives the number of tokens, fewer than asked for where the model ends its answer. */
export async function ask(engine: EngineClient, adapter: string | null, maxTokens = ANSWER_TOKENS): Promise<number> {
  const promptIds = Array.from({ length: PROMPT_TOKENS }, (_, at) => 300 + at)
  const sampling = { temperature: 0, topP: 1, seed: 1 }
  let tokens = 0
  const request = { promptIds, maxTokens, sampling, stop: [], adapter, tenant: 'bench' }
  for await (const { ids } of engine.generate(request)) tokens += ids.length
  return tokens
}

/** Tokens a second of `clients` that each ask again as soon as they were answered, for `seconds`. */
export async function load(
  engine: EngineClient,
  { clients, seconds, next }: { clients: number; seconds: number; next: (client: number) => string | null },
): Promise<number> {
  const begun = performance.now()
  const until = begun + seconds * 1000
  const totals = await Promise.all(
    Array.from({ length: clients }, async (_, client) => {
      let tokens = 0
      while (performance.now() < until) tokens += await ask(engine, next(client))
      return tokens
    }),
  )
  return (totals.reduce((sum, tokens) => sum + tokens, 0) / (performance.now() - begun)) * 1000
}
