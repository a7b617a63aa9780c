// What both endpoints' answers have in common: their head, their choices, their usage.
import type { Piece } from '../engine/request.ts'
import type { Indexed } from './run-choices.ts'

export interface Usage {
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly total_tokens: number
  readonly prompt_tokens_details: { readonly cached_tokens: number }
}

/** One choice in the making. It is either streamed or taken whole. */
export interface Choice {
  /** What a stream begins with, before any text; undefined for none. */
  readonly opening: object | undefined
  /** The choice of one chunk; `silent` where there is nothing to say yet. */
  chunk(piece: Piece): { readonly choice: object; readonly silent: boolean }
  add(piece: Piece): void
  whole(): object
}

export interface Answer {
  readonly head: object
  readonly chunkHead: object
  readonly choices: readonly Choice[]
}

/** What a request takes, as its pieces come. Each prompt counts once, however many answers it gets. */
export class UsageCount {
  readonly #promptTokens: number
  readonly #n: number
  #completionTokens = 0
  readonly #begun = new Set<number>()
  /** By prompt: of its answers, the one that found the least had to run what the others found then. */
  readonly #cachedTokens = new Map<number, number>()

  /** `n`: answers of each prompt. */
  constructor(promptTokens: number, n: number) {
    this.#promptTokens = promptTokens
    this.#n = n
  }

  add({ index, piece: { ids, cachedTokens = 0 } }: Indexed): void {
    this.#completionTokens += ids.length
    if (this.#begun.has(index)) return
    this.#begun.add(index)
    const prompt = Math.floor(index / this.#n)
    this.#cachedTokens.set(prompt, Math.min(this.#cachedTokens.get(prompt) ?? cachedTokens, cachedTokens))
  }

  get usage(): Usage {
    return {
      prompt_tokens: this.#promptTokens,
      completion_tokens: this.#completionTokens,
      total_tokens: this.#promptTokens + this.#completionTokens,
      prompt_tokens_details: { cached_tokens: [...this.#cachedTokens.values()].reduce((sum, count) => sum + count, 0) },
    }
  }
}
