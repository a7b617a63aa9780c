// The engine's routed serving: rows are grouped by adapter, and each group's factors are an input.
//
//   y = x·W   →   y = x·W + (x·A)·B      x [G, n, in], A [G, in, k·R], B [G, R, out]: group g's rows by group g's factors
//
// A slot that is picked by a Gather, as in attach-slots, is copied before it is read, and at a few rows reading is what a
// step costs. Here the host keeps the factors of the groups side by side, and they are read once, in place. The k linears
// of a site read the same x, so their A lie side by side and are one product. A group's numbers reach no other group.
import { graphNames } from '../contract.ts'
import { assert } from '../errors.ts'
import { linearInput, linearNode } from '../graph/linear.ts'
import type { Site } from '../graph/sites.ts'
import type { Graph, Node } from '../onnx/model.ts'

/** The graph, whose inputs have the factors already, with the paths of all sites. */
export function attachPaths(graph: Graph, sites: readonly Site[]): Graph {
  const pending = new Map(
    sites.flatMap((site) => site.linears.map(({ module }) => [linearNode(module), { site, module }])),
  )
  const entered = new Map<Site, string>()
  const nodes = graph.nodes.flatMap((node) => {
    const found = pending.get(node.name)
    if (found === undefined) return [node]
    pending.delete(node.name)
    const { site, module } = found
    const x = linearInput(graph, node)
    const before = entered.get(site)
    assert(before === undefined || before === x, `${module} does not read what ${site.name} reads`)
    entered.set(site, x)
    return [...(before === undefined ? shared(site, x) : []), ...path(node, module, site)]
  })
  assert(pending.size === 0, `the graph has no node ${[...pending.keys()].join(', ')}`)
  return { ...graph, nodes }
}

/** x·A of all linears of the site, and then of each. */
function shared(site: Site, x: string): Node[] {
  const low = `${site.name}.lora_A.MatMul`
  const product: Node = {
    op: 'MatMul',
    name: low,
    inputs: [x, graphNames.pathA(site.name)],
    outputs: [low],
    attributes: {},
  }
  if (site.linears.length === 1) return [product]
  const outputs = site.linears.map((linear) => lowOf(linear.module, site))
  const attributes = { axis: -1, num_outputs: outputs.length }
  return [product, { op: 'Split', name: `${site.name}.lora_A.apart`, inputs: [low], outputs, attributes }]
}

function path(frozen: Node, module: string, site: Site): Node[] {
  const [y] = frozen.outputs
  assert(y !== undefined, `${frozen.name} has no output`)
  const [base, high] = [`${module}.base`, `${module}.lora_B.MatMul`]
  const inputs = [lowOf(module, site), graphNames.pathB(module)]
  return [
    { ...frozen, outputs: [base] },
    { op: 'MatMul', name: high, inputs, outputs: [high], attributes: {} },
    { op: 'Add', name: `${module}.routed`, inputs: [base, high], outputs: [y], attributes: {} },
  ]
}

function lowOf(module: string, { name, linears }: Site): string {
  return linears.length === 1 ? `${name}.lora_A.MatMul` : `${module}.low`
}
