// What a linear is, from its connections alone: q and k meet in the scores, v meets what comes out of Softmax, o takes
// what attention gives; gate goes through an activation and meets up, which shares its input, in Mul, and down follows.
import { producer, type SurgeryGraph, type SurgeryNode } from '../onnx/read-graph.ts'
import type { LinearNode } from './linear.ts'

type Linears = ReadonlyMap<SurgeryNode, LinearNode>

/** Operators between two linears of a layer; more is another structure. */
const MAX_WALK = 4000
/** What reads sizes, not values. */
const SIZES: ReadonlySet<string> = new Set(['Shape', 'Constant', 'ConstantOfShape', 'Range'])
/** Only the first input is data. */
const ONE_DATA_INPUT: ReadonlySet<string> = new Set([
  'Reshape',
  'Expand',
  'Slice',
  'Unsqueeze',
  'Squeeze',
  'Split',
  'Gather',
])
/** Operators that only the gate of a feed-forward part goes into. */
export const ACTIVATIONS: ReadonlySet<string> = new Set([
  'Sigmoid',
  'Gelu',
  'FastGelu',
  'Silu',
  'Swish',
  'Erf',
  'Tanh',
  'Relu',
  'QuickGelu',
])

/** Names as Llama has them, by layer; nothing where attention and feed-forward parts do not pair up one to one. */
export function nameByTopology(graph: SurgeryGraph, linears: Linears): Map<SurgeryNode, string> {
  const consumers = consumersOf(graph)
  const attention = graph.nodes.flatMap((node) => attentionAt(node, linears, consumers) ?? [])
  const forward = graph.nodes.flatMap((node) => forwardAt(node, linears, consumers) ?? [])
  const names = new Map<SurgeryNode, string>()
  if (attention.length !== forward.length) return names
  const twice = new Set<SurgeryNode>()
  const add = (node: SurgeryNode, name: string) => {
    if (names.has(node)) twice.add(node)
    names.set(node, name)
  }
  for (const [layer, { q, k, v, o }] of attention.entries()) {
    for (const [part, node] of Object.entries({ q, k, v, o })) add(node, `model.layers.${layer}.self_attn.${part}_proj`)
  }
  for (const [layer, { gate, up, down }] of forward.entries()) {
    for (const [part, node] of Object.entries({ gate, up, down })) add(node, `model.layers.${layer}.mlp.${part}_proj`)
  }
  // One linear in two places means that the structure was not understood.
  return twice.size > 0 ? new Map() : names
}

function attentionAt(node: SurgeryNode, linears: Linears, consumers: Consumers) {
  let q: SurgeryNode | undefined
  let k: SurgeryNode | undefined
  let v: SurgeryNode | undefined
  let end: SurgeryNode | undefined
  if (node.op === 'GroupQueryAttention' || node.op === 'MultiHeadAttention') {
    ;[q, k, v] = [0, 1, 2].map((index) => linearBehind(node, index, linears))
    end = node
  } else if (node.op === 'Softmax') {
    const scores = walk(
      node,
      (at) => sources(at),
      (at) => isProduct(at, linears),
    )
    end = walk(
      node,
      (at) => consumers.get(at) ?? [],
      (at) => isProduct(at, linears),
    )
    if (scores === undefined || end === undefined) return undefined
    q = linearBehind(scores, 0, linears)
    k = linearBehind(scores, 1, linears)
    v = linearBehind(end, 1, linears)
  }
  if (q === undefined || k === undefined || v === undefined || end === undefined) return undefined
  const o = walk(
    end,
    (at) => consumers.get(at) ?? [],
    (at) => linears.has(at),
  )
  const isOneInput = q.inputs[0] === k.inputs[0] && k.inputs[0] === v.inputs[0]
  if (o === undefined || !isOneInput || new Set([q, k, v, o]).size !== 4) return undefined
  return { q, k, v, o }
}

function forwardAt(down: SurgeryNode, linears: Linears, consumers: Consumers) {
  if (!linears.has(down)) return undefined
  const meet = producer(down.graph, down.inputs[0] ?? '')
  if (meet?.op !== 'Mul') return undefined
  const sides = [0, 1].map((index) => producer(meet.graph, meet.inputs[index] ?? ''))
  const [up] = sides.filter((side) => side !== undefined && linears.has(side))
  const [active] = sides.filter((side) => side !== undefined && !linears.has(side))
  if (up === undefined || active === undefined) return undefined
  const gate = walk(
    active,
    (at) => sources(at),
    (at) => linears.has(at),
    true,
  )
  if (gate === undefined || gate === up || gate.inputs[0] !== up.inputs[0]) return undefined
  const isActivated = (consumers.get(gate) ?? []).some(({ op }) => ACTIVATIONS.has(op)) || ACTIVATIONS.has(active.op)
  return isActivated ? { gate, up, down } : undefined
}

const isProduct = (node: SurgeryNode, linears: Linears) => node.op === 'MatMul' && !linears.has(node)

type Consumers = ReadonlyMap<SurgeryNode, readonly SurgeryNode[]>

function consumersOf(graph: SurgeryGraph): Consumers {
  const consumers = new Map<SurgeryNode, SurgeryNode[]>()
  for (const node of graph.nodes) {
    if (SIZES.has(node.op)) continue
    const names = ONE_DATA_INPUT.has(node.op) ? node.inputs.slice(0, 1) : node.inputs
    for (const name of names) {
      const from = graph.producers.get(name)
      if (from === undefined) continue
      const list = consumers.get(from) ?? []
      consumers.set(from, list)
      list.push(node)
    }
  }
  return consumers
}

/** The nodes whose values this one takes. */
function sources(node: SurgeryNode): SurgeryNode[] {
  if (SIZES.has(node.op)) return []
  const names = ONE_DATA_INPUT.has(node.op) ? node.inputs.slice(0, 1) : node.inputs
  return names.flatMap((name) => node.graph.producers.get(name) ?? [])
}

/** The one linear that an input comes from. */
function linearBehind(node: SurgeryNode, index: number, linears: Linears): SurgeryNode | undefined {
  const from = node.graph.producers.get(node.inputs[index] ?? '')
  return from === undefined
    ? undefined
    : walk(
        from,
        (at) => sources(at),
        (at) => linears.has(at),
        true,
      )
}

/** The only node that is `wanted` and reached over others that are not; `undefined` where there is none, or two. */
function walk(
  start: SurgeryNode,
  next: (node: SurgeryNode) => readonly SurgeryNode[],
  wanted: (node: SurgeryNode) => boolean,
  includesStart = false,
): SurgeryNode | undefined {
  const seen = new Set<SurgeryNode>(includesStart ? [] : [start])
  const found = new Set<SurgeryNode>()
  const pending = includesStart ? [start] : [...next(start)]
  while (pending.length > 0 && seen.size < MAX_WALK) {
    const node = pending.pop()
    if (node === undefined || seen.has(node)) continue
    seen.add(node)
    if (wanted(node)) found.add(node)
    else pending.push(...next(node))
  }
  return found.size === 1 && pending.length === 0 ? [...found][0] : undefined
}
