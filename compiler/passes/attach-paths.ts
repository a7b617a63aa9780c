// The engine's routed serving: rows are grouped by adapter, and each group's factors are an input.
//
//   y = x·W   →   y = x·W + (x·A)·B      x [G, n, in], A [G, in, k·R], B [G, R, out]: group g's rows by group g's factors
//
// A slot that is picked by a Gather, as in attach-slots, is copied before it is read, and at a few rows reading is what a
// step costs. Here the host keeps the factors of the groups side by side, and they are read once, in place. The k linears
// of a site read the same x, so their A lie side by side and are one product. A group's numbers reach no other group.
import { graphNames } from '../contract.ts'
import { assert } from '../errors.ts'
import { joinedModule, linearInput, linearNode } from '../graph/linear.ts'
import type { Site } from '../graph/sites.ts'
import type { Graph, Node } from '../onnx/model.ts'

/** The graph, whose inputs have the factors already, with the paths of all sites. */
export function attachPaths(graph: Graph, sites: readonly Site[]): Graph {
  const pending = new Map<string, Target>()
  const written = new Set(graph.nodes.map(({ name }) => name))
  for (const site of sites) {
    const modules = site.linears.map(({ module }) => module)
    const joined = linearNode(joinedModule(modules))
    if (modules.length > 1 && written.has(joined)) pending.set(joined, { site, modules })
    else for (const module of modules) pending.set(linearNode(module), { site, modules: [module] })
  }
  const entered = new Map<Site, string>()
  const nodes = graph.nodes.flatMap((node) => {
    const target = pending.get(node.name)
    if (target === undefined) return [node]
    pending.delete(node.name)
    const { site, modules } = target
    const x = linearInput(graph, node)
    const before = entered.get(site)
    assert(before === undefined || before === x, `${modules[0]} does not read what ${site.name} reads`)
    entered.set(site, x)
    return [...(before === undefined ? shared(site, x) : []), ...path(node, modules, site)]
  })
  assert(pending.size === 0, `the graph has no node ${[...pending.keys()].join(', ')}`)
  return { ...graph, nodes }
}

interface Target {
  readonly site: Site
  /** All of the site where they are one product, and one otherwise. */
  readonly modules: readonly string[]
}

/** x·A of all linears of the site, and then of each. */
function shared(site: Site, x: string): Node[] {
  const low = `${site.name}.lora_A.MatMul`
  const product = node('MatMul', low, [x, graphNames.pathA(site.name)])
  if (site.linears.length === 1) return [product]
  const outputs = site.linears.map((linear) => lowOf(linear.module, site))
  const attributes = { axis: -1, num_outputs: outputs.length }
  return [product, { op: 'Split', name: `${site.name}.lora_A.apart`, inputs: [low], outputs, attributes }]
}

function path(frozen: Node, modules: readonly string[], site: Site): Node[] {
  const [y] = frozen.outputs
  assert(y !== undefined, `${frozen.name} has no output`)
  const highs = modules.map((module) => `${module}.lora_B.MatMul`)
  const products = modules.map((module, at) =>
    node('MatMul', highs[at] as string, [lowOf(module, site), graphNames.pathB(module)]),
  )
  const beside = `${site.name}.lora_B.all`
  const [high = ''] = highs.length === 1 ? highs : [beside]
  const concat = highs.length === 1 ? [] : [{ ...node('Concat', beside, highs), attributes: { axis: -1 } }]
  if (frozen.op === 'Add') {
    // The two products of an affine weight: one sum of all three.
    return [...products, ...concat, { ...frozen, op: 'Sum', inputs: [...frozen.inputs, high] }]
  }
  const base = `${modules[0]}.base`
  return [
    { ...frozen, outputs: [base] },
    ...products,
    ...concat,
    { ...node('Add', `${modules[0]}.routed`, [base, high]), outputs: [y] },
  ]
}

function node(op: string, name: string, inputs: readonly string[]): Node {
  return { op, name, inputs, outputs: [name], attributes: {} }
}

function lowOf(module: string, { name, linears }: Site): string {
  return linears.length === 1 ? `${name}.lora_A.MatMul` : `${module}.low`
}
