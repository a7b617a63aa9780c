// An ONNX file: versions, inputs and outputs, operators, weights, and whether the files that hold them are there.
import { compareCodePoints } from '../canonical-json.ts'
import { inputError } from '../errors.ts'
import type { ByteSource, Folder } from '../host.ts'
import { MAX_ONNX_BYTES, readOnnx } from '../onnx/read.ts'
import type { OnnxGraph, OnnxTensor, OnnxValue } from '../onnx/summary.ts'
import { withFile } from '../read-file.ts'
import type { Inspection, Row } from './inspection.ts'

/** `folder`: the one that the file lies in. */
export async function inspectOnnx(file: ByteSource, folder: Folder): Promise<Inspection> {
  if (file.size > MAX_ONNX_BYTES) {
    throw inputError('file-too-large', `${file.name}: ${file.size} bytes; ONNX files have at most ${MAX_ONNX_BYTES}`)
  }
  const model = readOnnx(await file.read(0, file.size), file.name)
  const graphs = allGraphs(model.graph)
  const initializers = graphs.flatMap((graph) => graph.initializers)
  const nodes = graphs.flatMap((graph) => graph.nodes)
  const { rows: external, notes } = await externalFiles(initializers, folder)
  const inline = initializers.filter((tensor) => tensor.external === undefined)
  const constants = nodes.reduce((sum, node) => sum + node.tensorBytes, 0)
  return {
    kind: 'onnx',
    name: file.name,
    facts: {
      graph: model.graph.name,
      ir_version: model.irVersion,
      producer: model.producer,
      opsets: model.opsets.map(({ domain, version }) => `${domain || 'ai.onnx'} ${version}`),
      functions: model.functions,
      subgraphs: graphs.length - 1,
      nodes: nodes.length,
      initializers: initializers.length,
      inline_bytes: inline.reduce((sum, { bytes }) => sum + bytes, 0) + constants,
      external_bytes: initializers.reduce((sum, { external: place }) => sum + (place?.length ?? 0), 0),
    },
    tables: {
      inputs: model.graph.inputs.map(valueRow),
      outputs: model.graph.outputs.map(valueRow),
      operators: countOperators(nodes),
      initializers: initializers.map(tensorRow),
      external_data: external,
    },
    notes,
  }
}

/** The graph and those inside its nodes; the reader has bounded their depth. */
function allGraphs(graph: OnnxGraph): OnnxGraph[] {
  return [graph, ...graph.nodes.flatMap(({ subgraphs }) => subgraphs.flatMap(allGraphs))]
}

function valueRow({ name, type, shape }: OnnxValue): Row {
  return { name, type, shape: shape ?? null }
}

function tensorRow({ name, type, dims, bytes, external }: OnnxTensor): Row {
  return { name, type, shape: dims, bytes, file: external?.location ?? null, offset: external?.offset ?? null }
}

function countOperators(nodes: OnnxGraph['nodes']): Row[] {
  const counts = new Map<string, number>()
  for (const { op, domain } of nodes) {
    const name = domain === '' ? op : `${domain}.${op}`
    counts.set(name, (counts.get(name) ?? 0) + 1)
  }
  return [...counts]
    .sort(([a, left], [b, right]) => right - left || compareCodePoints(a, b))
    .map(([operator, count]) => ({ operator, count }))
}

async function externalFiles(
  initializers: readonly OnnxTensor[],
  folder: Folder,
): Promise<{ rows: Row[]; notes: string[] }> {
  const needed = new Map<string, { tensors: number; bytes: number; end: number }>()
  for (const { external } of initializers) {
    if (external === undefined) continue
    const { tensors, bytes, end } = needed.get(external.location) ?? { tensors: 0, bytes: 0, end: 0 }
    needed.set(external.location, {
      tensors: tensors + 1,
      bytes: bytes + external.length,
      end: Math.max(end, external.offset + external.length),
    })
  }
  const rows: Row[] = []
  const notes: string[] = []
  for (const [file, { tensors, bytes, end }] of needed) {
    const size = await withFile(folder, file, async (source) => source.size)
    rows.push({ file, tensors, bytes, file_bytes: size ?? null })
    if (size === undefined) notes.push(`${file} is missing; the graph needs it beside itself`)
    else if (size < end) notes.push(`${file} has ${size} bytes, but the graph reads up to byte ${end}; copy it again`)
  }
  return { rows, notes }
}
