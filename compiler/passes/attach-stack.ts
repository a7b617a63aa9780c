// Stacked serving: each linear gets one low-rank side path that holds all adapters of the stack at once.
//
//   y = x·W   →   y = x·W + (x·A)·B      A = [A₁ … Aₖ] [in, Σr], B = [w₁s₁B₁; …; wₖsₖBₖ] [Σr, out]
//
// Side by side the factors are the sum: (x·A)·B = Σᵢ wᵢ·sᵢ·(x·Aᵢ)·Bᵢ. So the graph knows neither how many adapters there
// are nor their weights, and costs two products a linear however many they are. Rank 0 is the base.
import { graphNames, type Linear } from '../contract.ts'
import { assert } from '../errors.ts'
import { linearInput, linearNode } from '../graph/linear.ts'
import type { Graph, Node } from '../onnx/model.ts'

/** The graph with the two factors of each linear as further inputs; everything else as before. */
export function attachStack(graph: Graph, linears: readonly Linear[]): Graph {
  const pending = new Map(linears.map(({ module }) => [linearNode(module), module]))
  const nodes = graph.nodes.flatMap((node) => {
    const module = pending.get(node.name)
    if (module === undefined) return [node]
    pending.delete(node.name)
    return sidePath(node, linearInput(graph, node), module)
  })
  assert(pending.size === 0, `the graph has no node ${[...pending.keys()].join(', ')}`)
  return {
    ...graph,
    inputs: [
      ...graph.inputs,
      ...linears.flatMap(({ module, in: inSize, out }) => [
        // Ranks differ from module to module, and one name for two sizes would say that they are equal.
        { name: graphNames.stackA(module), type: 'float32' as const, shape: [inSize, `${module}.rank`] },
        { name: graphNames.stackB(module), type: 'float32' as const, shape: [`${module}.rank`, out] },
      ]),
    ],
    nodes,
  }
}

function sidePath(frozen: Node, x: string, module: string): Node[] {
  const [y] = frozen.outputs
  assert(y !== undefined, `${frozen.name} has no output`)
  const base = `${module}.base`
  const low = `${module}.lora_A.MatMul`
  const high = `${module}.lora_B.MatMul`
  const node = (op: string, name: string, inputs: string[], output: string): Node => ({
    op,
    name,
    inputs,
    outputs: [output],
    attributes: {},
  })
  return [
    { ...frozen, outputs: [base] },
    node('MatMul', low, [x, graphNames.stackA(module)], low),
    node('MatMul', high, [low, graphNames.stackB(module)], high),
    node('Add', `${module}.stacked`, [base, high], y),
  ]
}
