// What both endpoints' answers have in common: their head, their choices, their usage.
import type { Piece } from '../engine/request.ts'

export interface Usage {
  readonly prompt_tokens: number
  readonly completion_tokens: number
  readonly total_tokens: number
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

export function usageOf(prompt: number, completion: number): Usage {
  return { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion }
}
