// How a linear of the base stands in a graph: the one place where any of them is written.
import type { GraphBuilder } from './builder.ts'

/** Name of the node that multiplies by a linear's weight: what passes look for. */
export const linearNode = (module: string) => `${module}.MatMul`
/** The name of a linear's weight in the graph, [in, out]: transposed as compared with the checkpoint. */
export const linearWeight = (module: string) => `${module}.MatMul.weight`

/** x·Wᵀ with W stored as [in, out]. */
export function writeLinear(builder: GraphBuilder, module: string, x: string): string {
  return builder.node('MatMul', linearNode(module), [x, builder.weight(linearWeight(module))])
}
