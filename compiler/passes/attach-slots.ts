// Routed serving: each linear of the bank gets a low-rank side path whose factors every row of the batch picks by slot.
//
//   y = x·W   →   y = x·W + (x·A[slot])·B[slot]      x [B, S, in], A [K, in, R], B [K, R, out], slot [B]
//
// Slot 0 holds zeros, so its rows compute y + 0. The factors are gathered before they are multiplied: what a slot holds
// reaches no row that did not pick it, not even a NaN.
import { graphNames, type Linear } from '../contract.ts'
import { assert } from '../errors.ts'
import { linearInput, linearNode } from '../graph/linear.ts'
import type { Graph, Node } from '../onnx/model.ts'

/** The graph with `adapter_slots` and the bank as further inputs; everything else, names of values included, as before. */
export function attachSlots(graph: Graph, bank: readonly Linear[]): Graph {
  const pending = new Map(bank.map(({ module }) => [linearNode(module), module]))
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
      { name: graphNames.adapterSlots, type: 'int64', shape: ['batch'] },
      ...bank.flatMap(({ module, in: inSize, out }) => [
        { name: graphNames.bankA(module), type: 'float32' as const, shape: ['slots', inSize, 'rank'] },
        { name: graphNames.bankB(module), type: 'float32' as const, shape: ['slots', 'rank', out] },
      ]),
    ],
    nodes,
  }
}

function sidePath(frozen: Node, x: string, module: string): Node[] {
  const [y] = frozen.outputs
  assert(y !== undefined, `${frozen.name} has no output`)
  const node = (op: string, name: string, inputs: string[], output = `${module}.${name}`): Node => ({
    op,
    name: `${module}.${name}`,
    inputs,
    outputs: [output],
    attributes: op === 'Gather' ? { axis: 0 } : {},
  })
  const base = `${module}.base`
  return [
    { ...frozen, outputs: [base] },
    node('Gather', 'lora_A', [graphNames.bankA(module), graphNames.adapterSlots]),
    node('MatMul', 'lora_A.MatMul', [x, `${module}.lora_A`]),
    node('Gather', 'lora_B', [graphNames.bankB(module), graphNames.adapterSlots]),
    node('MatMul', 'lora_B.MatMul', [`${module}.lora_A.MatMul`, `${module}.lora_B`]),
    node('Add', 'routed', [base, `${module}.lora_B.MatMul`], y),
  ]
}
