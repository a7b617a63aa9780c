// Requests of every kind that the backend takes, each of which has one answer: greedy, or sampled with a seed.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { type Capability, paths } from '../../gpu-backend/contract.ts'
import type { Random } from './random.ts'

export interface Question {
  readonly path: string
  readonly body: Readonly<Record<string, unknown>>
  readonly adapter: Capability['adapter']
}

const HELDOUT = join(import.meta.dirname, '..', '..', 'examples', 'demo', 'heldout.jsonl')
const MIX_WEIGHTS = [0.25, 0.5, 1, -0.5]

export function questions(count: number, digests: readonly string[], { next, pick }: Random): Question[] {
  const texts = readFileSync(HELDOUT, 'utf8')
    .trim()
    .split('\n')
    .slice(0, 12)
    .map((line) => (JSON.parse(line) as { prompt: string }).prompt)
  /** Prompts that begin alike are what prefixes are kept for. */
  const preamble = texts.slice(0, 3).join(' ')
  const adapterOf = (kind: number): Capability['adapter'] => {
    if (kind === 0) return null
    if (kind < 4) return pick(digests)
    const [a, b] = [next(digests.length), next(digests.length - 1)]
    const parts = [digests[a]!, digests.filter((_, at) => at !== a)[b]!]
    return parts.map((digest) => ({ digest, weight: pick(MIX_WEIGHTS) }))
  }
  return Array.from({ length: count }, (_, index): Question => {
    const text = next(2) === 0 ? pick(texts) : `${preamble} ${pick(texts)}`
    const sampling =
      next(2) === 0
        ? { temperature: 0 }
        : {
            temperature: pick([0.7, 1, 1.4]),
            top_p: pick([1, 1, 0.9]),
            seed: index,
            ...(next(3) === 0 ? { n: 2 } : {}),
          }
    const shared = {
      ...sampling,
      ...(next(4) === 0 ? { presence_penalty: 0.5, frequency_penalty: 0.3 } : {}),
      ...(next(4) === 0 ? { stop: ['e f', '.'] } : {}),
      ...(next(6) === 0 ? { logit_bias: { 300: -5, 301: 2 } } : {}),
    }
    const adapter = adapterOf(index % 6)
    if (next(2) === 0) {
      const messages = [{ role: 'user', content: text }]
      const logprobs = next(2) === 0 ? { logprobs: true, top_logprobs: 3 } : {}
      return { path: paths.chat, body: { messages, max_tokens: 4 + next(28), ...shared, ...logprobs }, adapter }
    }
    const scored = next(3) === 0 ? { logprobs: 2, ...(next(2) === 0 ? { echo: true } : {}) } : {}
    return { path: paths.completions, body: { prompt: text, max_tokens: 4 + next(28), ...shared, ...scored }, adapter }
  })
}
