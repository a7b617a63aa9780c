// Answers of `/v1/completions`, as OpenAI writes them.
import { randomUUID } from 'node:crypto'
import type { TokenLogprob } from '../engine/logprobs.ts'
import type { Piece } from '../engine/request.ts'
import { Detokeniser } from '../text/detokeniser.ts'
import type { Decode } from '../text/writer.ts'
import type { Answer, Choice } from './answer.ts'
import type { TokenTexts } from './token-texts.ts'

export interface CompletionOptions {
  readonly model: string
  readonly created: number
  /** The answer begins with the prompt. */
  readonly echo: boolean
  readonly logprobs: boolean
  readonly tokenTexts: TokenTexts
  readonly decode: Decode
}

export interface PromptOf {
  readonly ids: readonly number[]
  /** As the caller wrote it. */
  readonly text: string
}

interface Logprobs {
  readonly tokens: string[]
  readonly token_logprobs: (number | null)[]
  readonly top_logprobs: (Record<string, number> | null)[]
  readonly text_offset: number[]
}

export function completionAnswer(prompts: readonly PromptOf[], options: CompletionOptions): Answer {
  const { model, created } = options
  const head = { id: `cmpl-${randomUUID()}`, object: 'text_completion', created, model }
  return { head, chunkHead: head, choices: prompts.map((prompt, index) => completionChoice(index, prompt, options)) }
}

function completionChoice(index: number, prompt: PromptOf, options: CompletionOptions): Choice {
  const offsets = new Offsets(options, prompt)
  let begun = false
  let text = ''
  let finish: string | null = null
  const all: Logprobs = emptyLogprobs()

  function read(piece: Piece): { text: string; logprobs: Logprobs | null } {
    const first = options.echo && !begun
    begun = true
    const logprobs = options.logprobs ? emptyLogprobs() : null
    if (logprobs !== null) {
      if (first) append(logprobs, prompt.ids[0]!, null)
      for (const scored of piece.promptLogprobs ?? []) append(logprobs, scored.id, scored)
      for (const scored of piece.logprobs ?? []) append(logprobs, scored.id, scored)
    }
    return { text: (first ? prompt.text : '') + piece.text, logprobs }
  }

  function append(to: Logprobs, id: number, scored: TokenLogprob | null): void {
    to.tokens.push(options.tokenTexts(id).token)
    to.token_logprobs.push(scored?.logprob ?? null)
    to.top_logprobs.push(scored && topOf(scored))
    to.text_offset.push(offsets.next(id))
  }

  function topOf({ id, logprob, top }: TokenLogprob): Record<string, number> {
    // The most probable first, and with it where two tokens read alike; the token itself also where it is none of them.
    const named = new Map<string, number>()
    for (const [other, value] of [...top, [id, logprob] as const]) {
      const { token } = options.tokenTexts(other)
      if (!named.has(token)) named.set(token, value)
    }
    return Object.fromEntries(named)
  }

  return {
    opening: undefined,
    chunk(piece) {
      const { text, logprobs } = read(piece)
      const finish_reason = piece.finish ?? null
      const silent = text === '' && finish_reason === null && !logprobs?.tokens.length
      return { choice: { index, text, logprobs, finish_reason }, silent }
    },
    add(piece) {
      const found = read(piece)
      text += found.text
      for (const key of ['tokens', 'token_logprobs', 'top_logprobs', 'text_offset'] as const) {
        const to: unknown[] = all[key]
        to.push(...(found.logprobs?.[key] ?? []))
      }
      finish = piece.finish ?? finish
    },
    whole: () => ({ index, text, logprobs: options.logprobs ? all : null, finish_reason: finish }),
  }
}

/** Where in the answer's text each token begins. */
class Offsets {
  readonly #detokeniser: Detokeniser
  #at = 0

  constructor({ decode, echo }: CompletionOptions, { ids }: PromptOf) {
    this.#detokeniser = new Detokeniser(decode, echo ? [] : ids)
  }

  next(id: number): number {
    const at = this.#at
    this.#at += this.#detokeniser.push(id).length
    return at
  }
}

function emptyLogprobs(): Logprobs {
  return { tokens: [], token_logprobs: [], top_logprobs: [], text_offset: [] }
}
