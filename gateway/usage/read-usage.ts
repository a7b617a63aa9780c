// Token counts, read from the end of a stream: the bytes pass untouched and only a bounded tail is kept.
import * as z from 'zod'

/** Room for the last few events: 300 bytes with usage alone, some kB with log-probabilities or a tool call. */
export const MAX_TAIL_BYTES = 64 << 10

const UsageFields = z.object({
  usage: z.object({ prompt_tokens: z.int().min(0), completion_tokens: z.int().min(0) }),
})

export interface Tokens {
  readonly promptTokens: number
  readonly completionTokens: number
}

export function readTokens(value: unknown): Tokens | null {
  const parsed = UsageFields.safeParse(value)
  if (!parsed.success) return null
  const { prompt_tokens: promptTokens, completion_tokens: completionTokens } = parsed.data.usage
  return { promptTokens, completionTokens }
}

const EmbeddingUsageFields = z.object({ usage: z.object({ prompt_tokens: z.int().min(0) }) })

/** Nothing is generated where texts are embedded, and OpenAI's usage does not speak of it. */
export function readEmbeddingTokens(value: unknown): Tokens | null {
  const parsed = EmbeddingUsageFields.safeParse(value)
  return parsed.success ? { promptTokens: parsed.data.usage.prompt_tokens, completionTokens: 0 } : null
}

export function createTail(): { push(chunk: Uint8Array): void; read(): { tokens: Tokens | null; done: boolean } } {
  let chunks: Uint8Array[] = []
  let length = 0
  return {
    push(chunk) {
      chunks.push(chunk)
      length += chunk.length
      // Whole chunks are dropped from the front, so at most one chunk more than the limit is held.
      while (chunks.length > 1 && length - (chunks[0]?.length ?? 0) >= MAX_TAIL_BYTES) {
        length -= chunks.shift()?.length ?? 0
      }
    },
    read() {
      const decoder = new TextDecoder()
      const text = chunks.map((chunk) => decoder.decode(chunk, { stream: true })).join('')
      chunks = []
      // What follows the last line end is an incomplete line, and is left out.
      const lines = text.split(/\r\n|\n|\r/).slice(0, -1)
      const events = lines.filter((line) => line.startsWith('data:')).map((line) => line.slice('data:'.length).trim())
      const done = events.at(-1) === '[DONE]'
      for (const event of events.reverse()) {
        try {
          const tokens = readTokens(JSON.parse(event))
          if (tokens !== null) return { tokens, done }
        } catch {
          // `[DONE]`, or a line cut at the front of the tail.
        }
      }
      return { tokens: null, done }
    },
  }
}
