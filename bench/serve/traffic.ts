// Requests to an engine in its own thread, as the HTTP side would make them, and how fast they were answered.
import { type EngineClient, startEngine } from '../../gpu-backend/engine/client.ts'
import { defaultEngineConfig, type EngineConfig, type GenerateRequest } from '../../gpu-backend/engine/request.ts'
import { type Fixture, RANK, THREADS } from './fixture.ts'

export const PROMPT_TOKENS = 16
export const ANSWER_TOKENS = 64

export function start({ artifact, store }: Fixture, config: Partial<EngineConfig> = {}): Promise<EngineClient> {
  const own = { artifact, storeDirs: [store], bankRank: RANK, threads: THREADS, kvBudgetBytes: 2 ** 30 }
  return startEngine({ ...defaultEngineConfig, ...own, ...config }, () => {})
}

/** Greedy; gives the number of tokens, fewer than asked for where the model ends its answer. */
export async function ask(engine: EngineClient, adapter: string | null, maxTokens = ANSWER_TOKENS): Promise<number> {
  let tokens = 0
  for await (const { ids } of engine.generate(requestOf(adapter, maxTokens))) tokens += ids.length
  return tokens
}

export interface Ask {
  readonly adapter: string | null
  readonly maxTokens: number
}

/**
 * Tokens a second of `clients` that each ask again as soon as they were answered. What runs when the time is over is
 * aborted, so that the end, when fewer and fewer rows run, is not counted.
 */
export async function load(
  engine: EngineClient,
  { clients, seconds, next }: { clients: number; seconds: number; next: () => Ask },
): Promise<number> {
  const ended = AbortSignal.timeout(seconds * 1000)
  const begun = performance.now()
  let tokens = 0
  await Promise.all(
    Array.from({ length: clients }, async () => {
      while (!ended.aborted) {
        const { adapter, maxTokens } = next()
        try {
          for await (const { ids } of engine.generate(requestOf(adapter, maxTokens), ended)) tokens += ids.length
        } catch (error) {
          if (!ended.aborted) throw error
        }
      }
    }),
  )
  return (tokens / (performance.now() - begun)) * 1000
}

function requestOf(adapter: string | null, maxTokens: number): GenerateRequest {
  const promptIds = Array.from({ length: PROMPT_TOKENS }, (_, at) => 300 + at)
  return { promptIds, maxTokens, sampling: { temperature: 0, topP: 1, seed: 1 }, stop: [], adapter, tenant: 'bench' }
}
