// What an inspection gives: facts, tables and remarks, the same for a terminal and for a program.

export type Cell = string | number | null | readonly (number | string | null)[]

export type Row = Readonly<Record<string, Cell>>

export interface Inspection {
  readonly kind:
    | 'artifact'
    | 'adapter'
    | 'compiled-adapter'
    | 'checkpoint'
    | 'safetensors'
    | 'onnx'
    | 'onnx-adapter'
    | 'gguf'
  readonly name: string
  readonly facts: Row
  /** By title; the rows of one table have the same columns. */
  readonly tables: Readonly<Record<string, readonly Row[]>>
  /** What is wrong or missing, in sentences. */
  readonly notes: readonly string[]
}
