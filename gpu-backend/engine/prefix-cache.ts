// Keys and values of prompts' beginnings that have run, block by block, within a byte budget. A block is known by a digest
// of all that its numbers come from, so that it cannot be found by who may not have it. It lies beside the rows and is
// copied into them: the graph reads a row in one piece.

/**
 * As vLLM's. A prefix is reused up to the last whole block, so that blocks are short; a copy costs a line of each head
 * and layer a block, so that they are not shorter.
 */
export const BLOCK_TOKENS = 16

interface Row {
  readonly length: number
}

/** What the engine asks a model for that keeps prefixes. */
export interface PrefixBlocks {
  readonly prefixBytes: number
  hasBlock(key: string): boolean
  /** Appends blocks to a row, up to the first that is gone; returns how many. */
  restoreBlocks(row: Row, keys: readonly string[]): number
  /** Keeps tokens `at` … `at` + `BLOCK_TOKENS` of a row, which follow the block `parent`. */
  keepBlock(row: Row, at: number, key: string, parent: string | undefined): void
}

interface Block {
  readonly data: Float32Array
  readonly parent: string | undefined
}

export class PrefixCache {
  readonly #budgetBytes: number
  readonly #blockFloats: number
  /**
   * Used longest ago first, and a block always before the one that it follows: what is evicted first is the end of a
   * prefix that nobody has used, and never a block without which others could not be found.
   */
  readonly #blocks = new Map<string, Block>()

  constructor(budgetBytes: number, blockFloats: number) {
    this.#budgetBytes = budgetBytes
    this.#blockFloats = blockFloats
  }

  get fits(): boolean {
    return this.#blockBytes <= this.#budgetBytes
  }

  get bytes(): number {
    return this.#blocks.size * this.#blockBytes
  }

  has(key: string): boolean {
    return this.#blocks.has(key)
  }

  find(key: string): Float32Array | undefined {
    return this.#blocks.get(key)?.data
  }

  /** It is there, and it and all before it were used now. */
  use(key: string): void {
    for (let at: string | undefined = key; at !== undefined; ) {
      const block: Block = this.#blocks.get(at)!
      this.#blocks.delete(at)
      this.#blocks.set(at, block)
      at = block.parent
    }
  }

  /**
   * Memory for a block that follows `parent`, to be filled at once; undefined where it is here already, where its parent
   * is not, or where `limitBytes` or the budget hold none.
   */
  add(key: string, parent: string | undefined, limitBytes: number): Float32Array | undefined {
    if (this.#blocks.has(key) || (parent !== undefined && !this.#blocks.has(parent))) return undefined
    const limit = Math.min(limitBytes, this.#budgetBytes)
    if (limit < this.#blockBytes) return undefined
    if (parent !== undefined) this.use(parent)
    // The memory of the last one to go is that of the one that comes.
    const data = this.#evict(limit - this.#blockBytes) ?? new Float32Array(this.#blockFloats)
    // A prefix that is as long as the budget has lost its own beginning just now.
    if (parent !== undefined && !this.#blocks.has(parent)) return undefined
    this.#blocks.set(key, { data, parent })
    if (parent !== undefined) this.use(parent)
    return data
  }

  /** Evicts until no more than so many bytes are left. */
  trim(bytes: number): void {
    this.#evict(Math.max(0, bytes))
  }

  get #blockBytes(): number {
    return this.#blockFloats * Float32Array.BYTES_PER_ELEMENT
  }

  #evict(bytes: number): Float32Array | undefined {
    let last: Float32Array | undefined
    for (const [key, { data }] of this.#blocks) {
      if (this.bytes <= bytes) break
      this.#blocks.delete(key)
      last = data
    }
    return last
  }
}
