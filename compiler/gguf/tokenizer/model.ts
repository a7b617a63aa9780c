// What a tokenizer is made of, whichever kind: the parts of tokenizer.json that depend on it.

export interface TokenizerModel {
  readonly normalizer: object | null
  readonly preTokenizer: object | null
  readonly decoder: object
  readonly model: object
  /** Whether a text begins with the first token of all, and ends with the last. */
  readonly addBos: boolean
  readonly addEos: boolean
}
