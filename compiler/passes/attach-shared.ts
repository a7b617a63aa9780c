// The engine's serving of one adapter to all rows of a step: two products a site, and no sum of its own.
//
//   y = x·W   →   y = (x·A)·B + x·W      x [n, in], A [in, Σr], B [Σr, Σout]
//
// The k linears of a site are one product by now, and so is their path: A₁ … Aₖ lie side by side, B₁ … Bₖ on the diagonal of
// one matrix. That reads k times the B of a path for each linear, and spares 2 + 2k nodes, which at a few rows cost more.
import { graphNames } from '../contract.ts'
import { assert } from '../errors.ts'
import { joinedModule, linearInput, linearNode } from '../graph/linear.ts'
import type { Site } from '../graph/sites.ts'
import type { Graph } from '../onnx/model.ts'

/** Whether each site of the graph is one product. */
export function canShare({ nodes }: Graph, sites: readonly Site[]): boolean {
  const names = new Set(nodes.map(({ name }) => name))
  return sites.every((site) => names.has(nodeOf(site)))
}

/** The graph, whose inputs have the factors already, with the paths of all sites. */
export function attachShared(graph: Graph, sites: readonly Site[]): Graph {
  const pending = new Map(sites.map((site) => [nodeOf(site), site]))
  const nodes = graph.nodes.flatMap((node) => {
    const site = pending.get(node.name)
    if (site === undefined) return [node]
    pending.delete(node.name)
    const [y] = node.outputs
    assert(y !== undefined, `${node.name} has no output`)
    const [base, low, routed] = [`${site.name}.base`, `${site.name}.lora_A.MatMul`, `${site.name}.routed`]
    const A = [linearInput(graph, node), graphNames.sharedA(site.name)]
    const B = [low, graphNames.sharedB(site.name), base]
    return [
      { ...node, outputs: [base] },
      { op: 'MatMul', name: low, inputs: A, outputs: [low], attributes: {} },
      { op: 'Gemm', name: routed, inputs: B, outputs: [y], attributes: {} },
    ]
  })
  assert(pending.size === 0, `the graph has no node ${[...pending.keys()].join(', ')}`)
  return { ...graph, nodes }
}

function nodeOf({ linears }: Site): string {
  const modules = linears.map(({ module }) => module)
  return linearNode(joinedModule(modules))
}
