// Prefix reuse as the scheduler sees it: what of a row's prompt has run before is copied and not run again.

import type { Row } from './model.ts'
import { BLOCK_TOKENS, type PrefixBlocks } from './prefix-cache.ts'
import { PrefixKeys } from './prefix-keys.ts'
import type { GenerateRequest, PrefixStats } from './request.ts'

/** A copy of so many tokens takes a large base some milliseconds; rows that decode wait no longer for the next step. */
const RESTORED_PER_STEP = 1_024

export interface PrefixRow {
  readonly request: Pick<GenerateRequest, 'adapter' | 'tenant' | 'promptIds' | 'scorePrompt'>
  readonly row: Row
  /** Of the prompt and, after it, of what was produced. */
  tokenAt(at: number): number
  /** So many of the prompt's next tokens are in the row already. */
  reused(tokens: number): void
}

interface Known {
  readonly keys: PrefixKeys
  /** Blocks of the row that need not be kept any more. */
  kept: number
}

export class Prefixes {
  readonly #blocks: PrefixBlocks
  readonly #base: string
  readonly #known = new WeakMap<PrefixRow, Known>()
  #queriedTokens = 0
  #hitTokens = 0

  constructor(blocks: PrefixBlocks, base: string) {
    this.#blocks = blocks
    this.#base = base
  }

  get stats(): PrefixStats {
    return { queriedTokens: this.#queriedTokens, hitTokens: this.#hitTokens, bytes: this.#blocks.prefixBytes }
  }

  /**
   * Reuses what there is, and gives the rows that have to run now. A row whose next block is that of one before it waits
   * for that one, step by step, so that the answers to one prompt run it once.
   */
  toRun<R extends PrefixRow>(prefilling: readonly R[]): R[] {
    const running = new Set<string>()
    return prefilling.filter((row) => {
      // Of these the logits of each token are asked for.
      if (row.request.scorePrompt === true) return true
      const known = this.#open(row)
      if (this.#restore(row, known)) return false
      const next = Math.floor(row.row.length / BLOCK_TOKENS)
      if (!reusable(row, next)) return true
      const key = known.keys.at(next)
      if (running.has(key)) return false
      running.add(key)
      return true
    })
  }

  /** Keeps the blocks that the last run has filled. */
  ran(row: PrefixRow): void {
    const known = this.#open(row)
    for (; (known.kept + 1) * BLOCK_TOKENS <= row.row.length; known.kept++) {
      const parent = known.kept === 0 ? undefined : known.keys.at(known.kept - 1)
      this.#blocks.keepBlock(row.row, known.kept * BLOCK_TOKENS, known.keys.at(known.kept), parent)
    }
  }

  #open(row: PrefixRow): Known {
    let known = this.#known.get(row)
    if (known === undefined) {
      const { adapter, tenant, promptIds, scorePrompt } = row.request
      known = { keys: new PrefixKeys({ base: this.#base, adapter, tenant }, (at) => row.tokenAt(at)), kept: 0 }
      this.#known.set(row, known)
      if (scorePrompt !== true) this.#queriedTokens += promptIds.length
    }
    return known
  }

  /** True where there is more than one step should copy. */
  #restore(row: PrefixRow, known: Known): boolean {
    if (row.row.length % BLOCK_TOKENS !== 0) return false
    const first = row.row.length / BLOCK_TOKENS
    const keys: string[] = []
    while (keys.length * BLOCK_TOKENS < RESTORED_PER_STEP && reusable(row, first + keys.length)) {
      const key = known.keys.at(first + keys.length)
      if (!this.#blocks.hasBlock(key)) break
      keys.push(key)
    }
    const restored = keys.length === 0 ? 0 : this.#blocks.restoreBlocks(row.row, keys)
    const tokens = restored * BLOCK_TOKENS
    known.kept = Math.max(known.kept, first + restored)
    if (tokens === 0) return false
    this.#hitTokens += tokens
    row.reused(tokens)
    return tokens >= RESTORED_PER_STEP
  }
}

/** The last token of a prompt has to run: its logits are the first of the answer. */
function reusable({ request }: PrefixRow, index: number): boolean {
  return (index + 1) * BLOCK_TOKENS < request.promptIds.length
}
