// One linear that does the work of several: q, k and v, or gate and up, side by side in its columns. Where they part is read
// off what takes them apart: the heads of the attention operator, Split, or Slices. A size alone says nothing.
//
//   the graph is fused, the adapter is not    its q is columns 0 … of the node's
//   the adapter is fused, the graph is not    its columns 0 … are q's
import { inputError, quote } from '../errors.ts'
import type { SurgeryGraph, SurgeryNode } from '../onnx/read-graph.ts'
import type { Site } from './linear.ts'
import { numbersOf } from './small-numbers.ts'
import { ACTIVATIONS } from './topology.ts'

const FUSIONS = [
  { fused: 'qkv_proj', parts: ['q_proj', 'k_proj', 'v_proj'] },
  { fused: 'gate_up_proj', parts: ['gate_proj', 'up_proj'] },
] as const

type Fusion = (typeof FUSIONS)[number]

/** Where one part lies in the node's columns. */
interface Cut {
  readonly from: number
  readonly width: number
  /** The value that holds this part alone; none where an operator takes all of them. */
  readonly value?: string
}

/**
 * The sites under the names that the adapters use. `speaks`: whether an adapter names a module whose last part is this.
 * Throws `InputError` where an adapter names a part and nothing says where it lies.
 */
export function spellAs(sites: readonly Site[], speaks: (part: string) => boolean): Site[] {
  return FUSIONS.reduce<Site[]>((spelt, fusion) => {
    if (speaks(fusion.fused)) return fuse(spelt, fusion)
    return fusion.parts.some(speaks) ? spelt.flatMap((site) => takeApart(site, fusion)) : spelt
  }, sites.slice())
}

function takeApart(site: Site, fusion: Fusion): Site[] {
  const parent = parentOf(site, fusion.fused)
  if (parent === undefined) return [site]
  const found = fusion.fused === 'qkv_proj' ? attentionCuts(site) : gateCuts(site)
  if (found === undefined) {
    throw inputError(
      'onnx-ambiguous',
      `${site.file}: ${fusion.parts.map((part) => `${parent}.${part}`).join(', ')} may be any columns of ${site.node.op} ` +
        `${quote(site.node.name)}, ${site.in} → ${site.out}: no attention operator, Split or Slice of constant sizes says ` +
        'where they part; export the model without the fusion',
    )
  }
  return fusion.parts.map((part, index): Site => {
    const { from, width } = found.cuts[index] as Cut
    const columns = { nodeFrom: from, moduleFrom: 0, width }
    return { ...site, module: `${parent}.${part}`, moduleOut: width, columns, fused: found.by }
  })
}

/** Where all parts of a fused module are linears of one input, they are that module, one after the other. */
function fuse(sites: readonly Site[], { fused, parts }: Fusion): Site[] {
  const groups = new Map<SurgeryGraph, Map<string, Site[]>>()
  for (const site of sites) {
    for (const part of parts) {
      const parent = parentOf(site, part)
      if (parent === undefined) continue
      const ofGraph = groups.get(site.node.graph) ?? new Map<string, Site[]>()
      groups.set(site.node.graph, ofGraph)
      ofGraph.set(parent, [...(ofGraph.get(parent) ?? []), site])
    }
  }
  const placed = new Map<Site, Site>()
  for (const [parent, group] of [...groups.values()].flatMap((ofGraph) => [...ofGraph])) {
    const ordered = parts.map((part) => group.filter((site) => parentOf(site, part) !== undefined))
    const isOne = ordered.every((found) => found.length === 1)
    const [first] = group
    if (!isOne || first === undefined || group.some((site) => site.node.inputs[0] !== first.node.inputs[0])) continue
    const moduleOut = group.reduce((total, { out }) => total + out, 0)
    let moduleFrom = 0
    for (const site of ordered.flat()) {
      const columns = { nodeFrom: 0, moduleFrom, width: site.out }
      placed.set(site, {
        ...site,
        module: `${parent}.${fused}`,
        moduleOut,
        columns,
        fused: `the columns of ${site.module}`,
      })
      moduleFrom += site.out
    }
  }
  return sites.map((site) => placed.get(site) ?? site)
}

function parentOf({ module }: Site, part: string): string | undefined {
  return module.endsWith(`.${part}`) ? module.slice(0, -part.length - 1) : undefined
}

interface Cuts {
  readonly cuts: readonly Cut[]
  readonly by: string
}

function attentionCuts(site: Site): Cuts | undefined {
  const after = afterBias(site)
  for (const { op, domain, ints, inputs, name } of usersOf(after)) {
    const isPacked = inputs[0] === after.value && !inputs[1] && !inputs[2]
    if (op !== 'GroupQueryAttention' || domain !== 'com.microsoft' || !isPacked) continue
    const [heads, kvHeads] = [ints.get('num_heads') ?? 0, ints.get('kv_num_heads') ?? 0]
    const size = site.out / (heads + 2 * kvHeads)
    if (!(heads > 0 && kvHeads > 0 && Number.isInteger(size))) return undefined
    const [q, kv] = [heads * size, kvHeads * size]
    return {
      cuts: [
        { from: 0, width: q },
        { from: q, width: kv },
        { from: q + kv, width: kv },
      ],
      by: `${op} ${quote(name)}: ${heads} and ${kvHeads} heads of ${size}`,
    }
  }
  return cutsOf(site, after, 3)
}

/** The part that goes into an activation is the gate; the other one does not. */
function gateCuts(site: Site): Cuts | undefined {
  const after = afterBias(site)
  const found = cutsOf(site, after, 2)
  if (found === undefined) return undefined
  const isGate = found.cuts.map(({ value = '' }) =>
    usersOf({ graph: after.graph, value }).some(({ op }) => ACTIVATIONS.has(op)),
  )
  const gates = found.cuts.filter((_, index) => isGate[index])
  const ups = found.cuts.filter((_, index) => !isGate[index])
  return gates.length === 1 && ups.length === 1 ? { ...found, cuts: [...gates, ...ups] } : undefined
}

interface Value {
  readonly graph: SurgeryGraph
  readonly value: string
}

const usersOf = ({ graph, value }: Value): SurgeryNode[] => graph.nodes.filter(({ inputs }) => inputs.includes(value))

/** A bias of all parts at once changes no column's place. */
function afterBias({ node }: Site): Value {
  const value = node.outputs[0] ?? ''
  const users = usersOf({ graph: node.graph, value })
  const [only] = users
  if (users.length !== 1 || only?.op !== 'Add') return { graph: node.graph, value }
  return { graph: node.graph, value: only.outputs[0] ?? '' }
}

/** `count` parts that tile the columns in order, by one Split or by Slices of the last axis. */
function cutsOf(site: Site, after: Value, count: number): Cuts | undefined {
  const sizes = new Map([
    [site.node.outputs[0] ?? '', site.out],
    [after.value, site.out],
  ])
  const users = usersOf(after)
  const numbers = (node: SurgeryNode, index: number) => {
    const name = node.inputs[index]
    return name === undefined || name === '' ? undefined : numbersOf(node.graph, name, sizes)
  }
  const splits = users.filter(({ op, domain }) => op === 'Split' && domain === '')
  const [split] = splits
  if (split !== undefined && splits.length === 1) {
    const even = Array.from({ length: split.outputs.length }, () => site.out / split.outputs.length)
    const widths = split.lists.get('split') ?? (split.inputs[1] ? numbers(split, 1) : even)
    if (!isLast(split.ints.get('axis')) || widths?.length !== count) return undefined
    let from = 0
    const cuts = widths.map((width, index): Cut => {
      from += width
      return { from: from - width, width, value: split.outputs[index] ?? '' }
    })
    return isTiling(cuts, site.out) ? { cuts, by: `Split ${quote(split.name)}: ${widths.join(', ')}` } : undefined
  }
  const slices = users.filter(({ op, domain }) => op === 'Slice' && domain === '')
  const cuts = slices.flatMap((slice): Cut[] => {
    const [starts, ends, axes] = [1, 2, 3].map((index) => numbers(slice, index))
    const steps = slice.inputs[4] ? numbers(slice, 4) : [1]
    const [start, end, axis, step] = [starts, ends, axes, steps].map((list) =>
      list?.length === 1 ? list[0] : undefined,
    )
    if (start === undefined || end === undefined || axis === undefined || !isLast(axis) || step !== 1 || start < 0)
      return []
    return [{ from: start, width: Math.min(end, site.out) - start, value: slice.outputs[0] ?? '' }]
  })
  const sorted = cuts.toSorted((a, b) => a.from - b.from)
  if (slices.length !== count || !isTiling(sorted, site.out) || sorted.length !== count) return undefined
  return {
    cuts: sorted,
    by: `Slices ${slices.map(({ name }) => quote(name)).join(', ')}: from ${sorted.map(({ from }) => from).join(', ')}`,
  }
}

/** Of [batch, length, columns]. */
const isLast = (axis: number | undefined) => axis === 2 || axis === -1

function isTiling(cuts: readonly Cut[], out: number): boolean {
  let at = 0
  for (const { from, width } of cuts) {
    if (from !== at || !(width > 0) || !Number.isInteger(width)) return false
    at += width
  }
  return at === out
}
