// One question, streamed or not, and its answer in one form, so that answers can be compared.

/** Per choice. */
export interface Said {
  text: string
  finish: string | null
  logprobs: number[]
}

export type Outcome =
  | { readonly kind: 'answer'; readonly said: readonly Said[]; readonly tokens: number }
  /** A whole error: a status, or an event in a stream. */
  | {
      readonly kind: 'error'
      readonly status: number
      readonly code: string
      readonly begun: boolean
      readonly said: readonly Said[]
    }
  /** A connection that ended without a word, or one on which nothing came any more. */
  | { readonly kind: 'cut' | 'hung'; readonly said: readonly Said[] }
  /** We hung up. */
  | { readonly kind: 'aborted'; readonly said: readonly Said[] }

interface Chunk {
  error?: { code: string }
  choices?: {
    index: number
    text?: string
    delta?: { content?: string | null }
    message?: { content: string | null }
    finish_reason: string | null
    logprobs?: { content?: { logprob: number }[]; token_logprobs?: (number | null)[] } | null
  }[]
  usage?: { completion_tokens: number } | null
}

export interface AskOptions {
  readonly url: string
  readonly bearer: string
  readonly body: object
  readonly stream: boolean
  /** Hangs up after so many chunks. */
  readonly abortAfter?: number | undefined
  /** An answer takes no longer. */
  readonly hungMs?: number
}

export async function ask({ url, bearer, body, stream, abortAfter, hungMs = 120_000 }: AskOptions): Promise<Outcome> {
  const said: Said[] = []
  const controller = new AbortController()
  const late = AbortSignal.timeout(hungMs)
  let tokens = 0
  const add = ({ choices = [], usage }: Chunk): void => {
    for (const { index, text, delta, message, finish_reason, logprobs } of choices) {
      while (said.length <= index) said.push({ text: '', finish: null, logprobs: [] })
      const to = said[index]!
      to.text += text ?? delta?.content ?? message?.content ?? ''
      to.finish = finish_reason ?? to.finish
      to.logprobs.push(...(logprobs?.content?.map(({ logprob }) => logprob) ?? []))
      to.logprobs.push(...(logprobs?.token_logprobs?.map((logprob) => logprob ?? 0) ?? []))
    }
    tokens = usage?.completion_tokens ?? tokens
  }
  const extra = stream ? { stream: true, stream_options: { include_usage: true } } : {}
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { authorization: `Bearer ${bearer}`, 'content-type': 'application/json' },
      body: JSON.stringify({ ...body, ...extra }),
      signal: AbortSignal.any([controller.signal, late]),
    })
    if (response.status !== 200 || !stream) {
      const whole = (await response.json()) as Chunk
      if (whole.error !== undefined)
        return { kind: 'error', status: response.status, code: whole.error.code, begun: false, said }
      add(whole)
      return { kind: 'answer', said, tokens }
    }
    let rest = ''
    let chunks = 0
    const decoder = new TextDecoder()
    for await (const bytes of response.body!) {
      const lines = (rest + decoder.decode(bytes, { stream: true })).split('\n')
      rest = lines.pop()!
      for (const line of lines) {
        if (!line.startsWith('data: ')) continue
        if (line === 'data: [DONE]') return { kind: 'answer', said, tokens }
        const chunk = parse(line.slice('data: '.length))
        // The end of a stream that was cut inside an event; an event that says so follows.
        if (chunk === undefined) continue
        if (chunk.error !== undefined) return { kind: 'error', status: 200, code: chunk.error.code, begun: true, said }
        add(chunk)
        chunks += 1
        if (chunks === abortAfter) {
          controller.abort()
          return { kind: 'aborted', said }
        }
      }
    }
    return { kind: 'cut', said }
  } catch {
    if (controller.signal.aborted) return { kind: 'aborted', said }
    return { kind: late.aborted ? 'hung' : 'cut', said }
  }
}

function parse(json: string): Chunk | undefined {
  try {
    return JSON.parse(json) as Chunk
  } catch {
    return undefined
  }
}
