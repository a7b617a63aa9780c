// Every linear of an exported graph, and which module of the model it is, with the evidence: what the exporter wrote on
// the node, then the name of its weight, then its place among the others. A shape alone is never evidence.
import { type InputError, inputError, quote } from '../errors.ts'
import {
  allGraphs,
  findTensor,
  producer,
  type SurgeryGraph,
  type SurgeryModel,
  type SurgeryNode,
  type SurgeryTensor,
} from '../onnx/read-graph.ts'
import type { Evidence, LinearNode, Site } from './linear.ts'
import { nameByTopology } from './topology.ts'

/** The linears of all graphs of the model that have a module, in file order. Throws where one module is claimed twice. */
export function findLinears(model: SurgeryModel): Site[] {
  return allGraphs(model.graph).flatMap((graph) => {
    const linears = graph.nodes.flatMap((node) => linearOf(node, model.file) ?? [])
    const byPlace = nameByTopology(graph, new Map(linears.map((linear) => [linear.node, linear])))
    return linears.flatMap((linear): Site[] => {
      const byNode = nameOfNode(linear.node)
      if (byNode !== undefined) return [whole(linear, byNode, 'node-name')]
      const byTensor = nameOfTensor(linear.weight.name)
      if (byTensor !== undefined) return [whole(linear, byTensor, 'initializer-name')]
      const place = byPlace.get(linear.node)
      return place === undefined ? [] : [whole(linear, place, 'topology')]
    })
  })
}

function whole(linear: LinearNode, module: string, evidence: Evidence): Site {
  const { out } = linear
  return { ...linear, module, evidence, moduleOut: out, columns: { nodeFrom: 0, moduleFrom: 0, width: out } }
}

/** Throws where two nodes of one graph claim one of these modules. The branches of an If may each have it once. */
export function refuseAmbiguous(sites: readonly Site[], modules: ReadonlySet<string>): void {
  const seen = new Map<SurgeryGraph, Map<string, Site>>()
  for (const site of sites.filter(({ module }) => modules.has(module))) {
    const inGraph = seen.get(site.node.graph) ?? new Map<string, Site>()
    seen.set(site.node.graph, inGraph)
    const columns = `${site.module} ${site.columns.moduleFrom}`
    const other = inGraph.get(columns)
    if (other !== undefined) throw ambiguous(other, site)
    inGraph.set(columns, site)
  }
}

/**
 * Throws where a graph has some of the modules and not the others, or the file lacks one: it would answer as the base
 * there, without a word.
 */
export function refuseMissing(file: string, sites: readonly Site[], modules: ReadonlySet<string>): void {
  const graphs = Map.groupBy(sites, ({ node }) => node.graph)
  for (const group of [sites, ...graphs.values()]) {
    const there = new Set(group.map(({ module }) => module))
    const missing = [...modules].filter((module) => !there.has(module))
    if (missing.length === 0) continue
    const some = missing.slice(0, 3).join(', ')
    throw inputError(
      'adapter-target',
      `${file}: ${missing.length} of ${modules.size} linears that the adapters change were not found (${some}); ` +
        'give only the files that hold all of them, exported with names',
    )
  }
}

/** Two candidates for one module. */
export function ambiguous(one: Site, other: Site): InputError {
  return inputError(
    'onnx-ambiguous',
    `${other.file}: ${other.module} may be ${describe(one)} or ${describe(other)}; export the model with names that tell`,
  )
}

const describe = ({ node, weight, evidence, in: inSize, out }: Site) =>
  `${node.op} ${quote(node.name)} at byte ${node.at}, weight ${quote(weight.name)} ${inSize} → ${out} (${evidence})`

function linearOf(node: SurgeryNode, file: string): LinearNode | undefined {
  if (node.domain === '' && (node.op === 'MatMul' || node.op === 'Gemm')) return floatLinear(node, file)
  if (node.domain === 'com.microsoft' && (node.op === 'MatMulNBits' || node.op === 'MatMulBnb4')) {
    const weight = findTensor(node.graph, node.inputs[1] ?? '')
    const type = typeOf(node.graph, node.inputs[2] ?? '')
    const [inSize, out] = [node.ints.get('K'), node.ints.get('N')]
    if (weight === undefined || type === undefined || !inSize || !out) return undefined
    return { file, node, in: inSize, out, weight, transposed: true, form: 'quantised', codec: node, type }
  }
  return undefined
}

/** By code of TensorProto.DataType. */
const FLOATS: Readonly<Record<number, string>> = { 1: 'float32', 10: 'float16', 16: 'bfloat16' }

/** Of scales, which may be stored in fewer bits than the operator takes them in. */
function typeOf(graph: SurgeryGraph, scales: string): string | undefined {
  let name = scales
  for (let step = 0; step <= MAX_CHAIN; step += 1) {
    const tensor = findTensor(graph, name)
    if (tensor !== undefined) return tensor.type
    const from = producer(graph, name)
    if (from === undefined) return undefined
    if (from.op === 'Cast') return FLOATS[from.ints.get('to') ?? 0]
    name = from.inputs[0] ?? ''
  }
  return undefined
}

/** Longest chain from a tensor to the node that it feeds: DequantizeLinear, Transpose, Cast. */
export const MAX_CHAIN = 4

function floatLinear(node: SurgeryNode, file: string): LinearNode | undefined {
  let transposed = node.op === 'Gemm' && node.ints.get('transB') === 1
  let form: LinearNode['form'] = 'stored'
  let scales: SurgeryTensor | undefined
  let codec: SurgeryNode | undefined
  let cast: string | undefined
  let name = node.inputs[1] ?? ''
  for (let step = 0; step <= MAX_CHAIN; step += 1) {
    const weight = findTensor(node.graph, name)
    if (weight !== undefined) {
      const [rows, columns] = weight.dims
      if (weight.dims.length !== 2 || !rows || !columns) return undefined
      const [inSize, out] = transposed ? [columns, rows] : [rows, columns]
      return {
        file,
        node,
        in: inSize,
        out,
        weight,
        transposed,
        form,
        ...(codec && { codec }),
        type: cast ?? (scales ?? weight).type,
      }
    }
    const from = producer(node.graph, name)
    if (from === undefined || from.domain !== '') return undefined
    if (from.op === 'DequantizeLinear') {
      form = 'quantised'
      codec = from
      scales = findTensor(from.graph, from.inputs[1] ?? '')
    } else if (from.op === 'Cast') cast ??= FLOATS[from.ints.get('to') ?? 0] ?? ''
    else if (from.op === 'Transpose') transposed = !transposed
    else if (from.op !== 'Identity') return undefined
    if (form === 'stored') form = 'derived'
    name = from.inputs[0] ?? ''
  }
  return undefined
}

const NODE_SUFFIX = /\/(?:MatMul|Gemm|MatMulNBits|MatMulBnb4)(?:_[\w]+)?$/
/** What the exporter of today writes on each node: the modules around it, the innermost before the operator. */
const SCOPES = 'pkg.torch.onnx.name_scopes'

function nameOfNode({ name, metadata }: SurgeryNode): string | undefined {
  if (name.startsWith('/') && NODE_SUFFIX.test(name)) {
    return canonical(name.replace(NODE_SUFFIX, '').slice(1).replaceAll('/', '.'))
  }
  const dotted = /^(\w+(?:\.\w+)+)\.MatMul(?:\.centred)?$/.exec(name)?.[1]
  if (dotted !== undefined) return canonical(dotted)
  const scopes = [...(metadata.get(SCOPES) ?? '').matchAll(/'([\w.]*)'/g)].map((match) => match[1] ?? '')
  const module = scopes.at(-2)
  return module === undefined || module === '' ? undefined : canonical(module)
}

function nameOfTensor(name: string): string | undefined {
  if (name.startsWith('onnx::')) return undefined
  const module = /^([A-Za-z_][\w.]*?)(?:\.MatMul(?:NBits)?)?\.q?weight(?:_Q\w+|_quantized)?$/.exec(name)?.[1]
  return module === undefined ? undefined : canonical(module)
}

/** The builder of onnxruntime-genai writes `attn` for what PEFT, after transformers, calls `self_attn`. */
function canonical(module: string): string {
  return module.replace(/^(model\.layers\.\d+)\.attn\.((?:[qkvo]|qkv)_proj)$/, '$1.self_attn.$2')
}
