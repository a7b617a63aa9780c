// What reading an adapter gives: its effect on each tensor of the base, whatever the base's architecture is. The contract
// between the reader and those that merge, combine, stack or route.
import type { StoredTensor } from '../safetensors/read.ts'

/**
 * What an adapter does to one tensor of the base (names are the base checkpoint's tensor names). Where several changes
 * name one tensor they are listed, and apply, in this order: `replace`, `low-rank`, `add`, `rows`.
 */
export type Change =
  | {
      /** W' = W + scaling·B·A, or with `magnitude` m, row by row of [out, in], W' = m·(W + scaling·B·A) / ‖W + scaling·B·A‖. */
      readonly kind: 'low-rank'
      readonly tensor: string
      /** [r, in]; of a convolution [out, in, …kernel], `in` is the product of all but the first. */
      readonly A: Float32Array
      /** [out, r] */
      readonly B: Float32Array
      readonly r: number
      readonly in: number
      readonly out: number
      /** Not in A or B. */
      readonly scaling: number
      /** W is stored [in, out]: Conv1D / fan_in_fan_out, or an embedding [tokens, width], whose `in` is the tokens. */
      readonly transposed: boolean
      /** DoRA, [out]. */
      readonly magnitude?: Float32Array
      readonly sources: readonly string[]
    }
  /** The whole tensor, of the base's shape and of its own float type: modules_to_save, bias, saved embeddings. */
  | {
      readonly kind: 'replace'
      readonly tensor: string
      readonly value: StoredTensor
      readonly sources: readonly string[]
    }
  /** W' = W + scaling·value: lora_bias. */
  | {
      readonly kind: 'add'
      readonly tensor: string
      readonly value: Float32Array
      readonly scaling: number
      readonly sources: readonly string[]
    }
  /** W'[rows[i]] = value[i], value [rows, width]: trainable_token_indices. */
  | {
      readonly kind: 'rows'
      readonly tensor: string
      readonly rows: readonly number[]
      readonly value: Float32Array
      readonly sources: readonly string[]
    }

export interface AdapterChanges {
  readonly name: string
  readonly weight: number
  /** By tensor in code point order, then in the order above. Every tensor of the adapter is a source of one of them. */
  readonly changes: readonly Change[]
  /** Of the config; 0 where the dialect has none and the file gives each module its own. */
  readonly loraAlpha: number
  readonly useRslora: boolean
  /**
   * Changed tensors that a base with tied embeddings also uses as its head, though the adapter means the embedding alone
   * (LoRA, modules_to_save). To merge them there is to change the head too, as PEFT does without a word: untie first.
   */
  readonly untied: readonly string[]
}

/** What the reader asks of the base: its tensors by name. */
export type BaseTensors = ReadonlyMap<string, Pick<StoredTensor, 'dtype' | 'shape'>>
