// What every stored form of a GGUF tensor is: blocks of equal size, each a fixed number of elements.

export interface BlockFormat {
  readonly name: string
  /** ggml's number for it, as the file has it. */
  readonly type: number
  readonly elements: number
  readonly bytes: number
  /** Whole blocks → float32, `elements` of `out` a block. */
  dequantise(blocks: Uint8Array, out: Float32Array): void
}
