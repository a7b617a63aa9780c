// What a GGUF architecture is to Hugging Face: where each of its tensors goes, what was done to it, and its config.json.
import type { Metadata } from '../metadata.ts'
import type { GgufTensor } from '../read.ts'

/**
 * What the conversion to GGUF did, to be undone. `turned`: the rows of each head are interleaved, first and second half of
 * the head alternating, for rotary embeddings that turn neighbours. `one-plus`: 1 was added, for norms by 1 + w.
 * `transposed`: a matrix that Hugging Face stores [in, out] is [out, in] here, as every other.
 */
export type Alteration = 'turned' | 'one-plus' | 'transposed'

export interface Place {
  /** Without `.weight` or `.bias`. */
  readonly to: string
  readonly altered?: Alteration
}

export type ConfigJson = Record<string, unknown>

export interface Architecture {
  /** As `general.architecture` has it. */
  readonly name: string
  /** Tensors outside the layers. */
  readonly globals: Readonly<Record<string, Place>>
  /** Tensors of `blk.N`; they go to `layers`.N. */
  readonly layer: Readonly<Record<string, Place>>
  readonly layers: string
  /** The keys below `<name>.` that `config` honours; any other could change the numbers and is refused. */
  readonly keys: readonly string[]
  config(metadata: Metadata, tensors: ReadonlyMap<string, GgufTensor>): ConfigJson
}
