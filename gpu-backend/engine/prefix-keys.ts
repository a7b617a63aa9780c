// What blocks of a row's tokens are known by: a chain of digests, each over the one before it and the tokens of its block,
// from one over all else that keys and values come from.
import { sha256 } from '@noble/hashes/sha2.js'
import { bytesToHex, concatBytes, utf8ToBytes } from '@noble/hashes/utils.js'
import { canonicalJson } from '../../compiler/canonical-json.ts'
import { BLOCK_TOKENS } from './prefix-cache.ts'

const SCHEMA = 'sidepath.prefix/1'

export interface PrefixOwner {
  /** Digest of the base. */
  readonly base: string
  /** Digest of the adapter's content, or of a mix's digests and weights; null is the base itself. */
  readonly adapter: string | null
  /** Nobody else finds the block, nor sees by the clock that it is there. */
  readonly tenant: string
}

export class PrefixKeys {
  readonly #tokenAt: (at: number) => number
  readonly #keys: string[] = []
  #last: Uint8Array

  constructor({ base, adapter, tenant }: PrefixOwner, tokenAt: (at: number) => number) {
    this.#last = sha256(utf8ToBytes(canonicalJson({ schema: SCHEMA, base, adapter, tenant })))
    this.#tokenAt = tokenAt
  }

  /** Of the block with tokens `index` · `BLOCK_TOKENS` …; all of them are known. */
  at(index: number): string {
    while (this.#keys.length <= index) {
      const start = this.#keys.length * BLOCK_TOKENS
      const tokens = Uint32Array.from({ length: BLOCK_TOKENS }, (_, at) => this.#tokenAt(start + at))
      this.#last = sha256(concatBytes(this.#last, new Uint8Array(tokens.buffer)))
      this.#keys.push(bytesToHex(this.#last))
    }
    return this.#keys[index]!
  }
}
