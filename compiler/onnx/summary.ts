// What an ONNX file says, without its weights: as much as an inspection shows and a verification looks up.

export interface OnnxModel {
  readonly irVersion: number
  readonly producer: string
  readonly opsets: readonly { readonly domain: string; readonly version: number }[]
  /** Model-local functions. */
  readonly functions: number
  readonly graph: OnnxGraph
}

export interface OnnxGraph {
  readonly name: string
  readonly nodes: readonly OnnxNode[]
  readonly inputs: readonly OnnxValue[]
  readonly outputs: readonly OnnxValue[]
  /** Names are unique. */
  readonly initializers: readonly OnnxTensor[]
}

export interface OnnxNode {
  readonly op: string
  /** Empty for the operators of the standard. */
  readonly domain: string
  readonly name: string
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  /** Of If, Loop and Scan. */
  readonly subgraphs: readonly OnnxGraph[]
  /** Bytes of the tensors among the attributes. */
  readonly tensorBytes: number
}

export interface OnnxValue {
  readonly name: string
  /** Of the elements of a tensor; another kind of value by its own name, e.g. `sequence`. */
  readonly type: string
  /** `undefined` where the file does not say; `null` for a dimension that has neither size nor name. */
  readonly shape: readonly (number | string | null)[] | undefined
}

export interface OnnxTensor {
  readonly name: string
  readonly type: string
  readonly dims: readonly number[]
  readonly bytes: number
  /** Where the data lies, if not in the file itself. */
  readonly external?: { readonly location: string; readonly offset: number; readonly length: number }
}
