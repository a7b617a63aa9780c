// A linear of an exported graph, and how sure we are which one it is.
import type { SurgeryNode, SurgeryTensor } from '../onnx/read-graph.ts'

export type Evidence = 'node-name' | 'initializer-name' | 'topology'

/** A node that multiplies by a constant matrix. */
export interface LinearNode {
  readonly file: string
  readonly node: SurgeryNode
  readonly in: number
  readonly out: number
  /** The tensor that holds W, as floats or as the codes of a quantisation. */
  readonly weight: SurgeryTensor
  /** W is stored [out, in]. */
  readonly transposed: boolean
  /** The node that knows how the codes are stored: itself, or a DequantizeLinear before it. */
  readonly codec?: SurgeryNode
  /** `stored`: W itself feeds the node. `derived`: through Transpose, Cast, Identity. `quantised`: codes and scales. */
  readonly form: 'stored' | 'derived' | 'quantised'
  /** Element type of what goes in and comes out. */
  readonly type: string
}

/** Which columns of the node are which columns of the module: all of both, unless one of them is fused. */
export interface Columns {
  readonly nodeFrom: number
  readonly moduleFrom: number
  readonly width: number
}

export interface Site extends LinearNode {
  readonly module: string
  /** Of the module; the node's may be more or less. */
  readonly moduleOut: number
  readonly columns: Columns
  readonly evidence: Evidence
  /** What says where the columns of a fused linear part. */
  readonly fused?: string
}

export const isWhole = ({ columns, out, moduleOut }: Site) => columns.width === out && out === moduleOut
