// A typed ONNX graph, as far as this compiler needs one. It knows nothing of protobuf.

export type ElementType = 'float32' | 'float16' | 'uint4' | 'uint8' | 'int8' | 'int32' | 'int64' | 'bool'

/** A number is a fixed size; a name is a dimension known at run time. Different sizes have different names. */
export type Dimension = number | string

export interface ValueInfo {
  readonly name: string
  readonly type: ElementType
  readonly shape: readonly Dimension[]
}

/** number: an INT attribute; list: INTS; the others say what they are. */
export type Attribute = number | readonly number[] | { readonly float: number } | { readonly string: string }

export interface Node {
  readonly op: string
  /** Of the operator: absent for ONNX's own, `com.microsoft` for those of ONNX Runtime. */
  readonly domain?: string
  readonly name: string
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly attributes: Readonly<Record<string, Attribute>>
}

export interface InlineTensor {
  readonly name: string
  readonly dims: readonly number[]
  readonly data: Float32Array | BigInt64Array | Uint8Array
  /** Of bytes, which are uint8 where absent; two uint4 a byte, the low one first. */
  readonly type?: 'uint4'
}

/** Data in another file beside the model. */
export interface ExternalTensor {
  readonly name: string
  /** float32 where absent. */
  readonly type?: ElementType
  readonly dims: readonly number[]
  readonly location: string
  readonly offset: number
  readonly bytes: number
  /** Of the codes of a quantised weight: what `dims` does not say. No part of the file. */
  readonly quantised?: {
    readonly in: number
    readonly out: number
    readonly block: number
    /** Whether the product rounds its activations to eight bits. */
    readonly rounds: boolean
    /** What is added to each block's offset, in scales; nothing without. */
    readonly centre?: number
  }
}

export interface Graph {
  readonly name: string
  readonly inputs: readonly ValueInfo[]
  readonly outputs: readonly ValueInfo[]
  readonly constants: readonly InlineTensor[]
  readonly weights: readonly ExternalTensor[]
  /** In topological order. */
  readonly nodes: readonly Node[]
  /** Shapes of values in between that ONNX Runtime could not find out, and that let it use memory again. */
  readonly values?: readonly ValueInfo[]
}
