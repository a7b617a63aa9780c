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
  /** `stored`: W itself feeds the node. `derived`: through Transpose, Cast, Identity. `quantised`: codes and scales. */
  readonly form: 'stored' | 'derived' | 'quantised'
  /** Element type of what goes in and comes out. */
  readonly type: string
}

export interface Site extends LinearNode {
  readonly module: string
  readonly evidence: Evidence
}
