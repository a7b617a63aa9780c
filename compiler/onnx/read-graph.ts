// An ONNX file for surgery: every node with its attributes, its scope and the place of its bytes. `readOnnx` has checked
// the file before; this reads again what a summary leaves out.
import { BinaryReader } from '@bufbuild/protobuf/wire'
import { inputError, quote } from '../errors.ts'
import { Message, type OnnxBytes } from './message.ts'
import { readOnnx } from './read.ts'
import { readTensor } from './read-tensor.ts'
import type { OnnxModel, OnnxTensor } from './summary.ts'

export interface SurgeryTensor extends OnnxTensor {
  /** Where its message begins in the file: its identity in an edit. */
  readonly at: number
  readonly payload: Uint8Array
}

export interface SurgeryNode {
  readonly at: number
  readonly payload: Uint8Array
  readonly op: string
  readonly domain: string
  readonly name: string
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly ints: ReadonlyMap<string, number>
  readonly floats: ReadonlyMap<string, number>
  /** Of lists that have a few numbers. */
  readonly lists: ReadonlyMap<string, readonly number[]>
  /** TensorProto messages among the attributes. */
  readonly tensors: ReadonlyMap<string, Uint8Array>
  /** Of metadata_props, which the exporters of today write. */
  readonly metadata: ReadonlyMap<string, string>
  readonly graph: SurgeryGraph
}

export interface SurgeryGraph {
  readonly parent?: SurgeryGraph
  readonly nodes: SurgeryNode[]
  readonly initializers: Map<string, SurgeryTensor>
  readonly producers: Map<string, SurgeryNode>
  /** Branches of If, bodies of Loop and Scan. */
  readonly subgraphs: SurgeryGraph[]
}

export interface SurgeryModel {
  readonly file: string
  readonly bytes: Uint8Array
  readonly summary: OnnxModel
  readonly graph: SurgeryGraph
  /** Every name of a value, a node or a tensor, in all graphs. */
  readonly names: ReadonlySet<string>
}

/** Throws `InputError` (`onnx-invalid`) where the file is wrong. */
export function readGraph(bytes: Uint8Array, file: string): SurgeryModel {
  const summary = readOnnx(bytes, file)
  const reading = { source: { name: file, bytes, fields: 0 }, names: new Set<string>() }
  let graph: SurgeryGraph | undefined
  const message = new Message(reading.source)
  for (const field of message.fields()) {
    if (field.number === 7) graph = graphOf(message.bytes(field, 'the graph'), undefined, reading)
  }
  if (graph === undefined) throw inputError('onnx-invalid', `${file}: there is no graph`)
  return { file, bytes, summary, graph, names: reading.names }
}

interface Reading {
  readonly source: OnnxBytes
  readonly names: Set<string>
}

function graphOf(payload: Uint8Array, parent: SurgeryGraph | undefined, reading: Reading): SurgeryGraph {
  const { source, names } = reading
  const message = new Message(source, payload)
  const graph: SurgeryGraph = {
    ...(parent && { parent }),
    nodes: [],
    initializers: new Map(),
    producers: new Map(),
    subgraphs: [],
  }
  for (const field of message.fields()) {
    if (field.number === 1) {
      const node = nodeOf(message.bytes(field, 'a node'), graph, reading)
      graph.nodes.push(node)
      for (const output of node.outputs) {
        if (output === '') continue
        if (graph.producers.has(output)) message.fail(`two nodes give ${quote(output)}`)
        graph.producers.set(output, node)
        names.add(output)
      }
      names.add(node.name)
    } else if (field.number === 5) {
      const tensor = message.bytes(field, 'an initializer')
      const read = readTensor(new Message(source, tensor))
      graph.initializers.set(read.name, { ...read, at: placeOf(tensor, source), payload: tensor })
      names.add(read.name)
    } else if (field.number === 11 || field.number === 12) {
      const value = message.child(field, 'a value')
      for (const part of value.fields()) if (part.number === 1) names.add(value.text(part, 'the name of a value'))
    }
  }
  return graph
}

function nodeOf(payload: Uint8Array, graph: SurgeryGraph, reading: Reading): SurgeryNode {
  const message = new Message(reading.source, payload)
  const node = { op: '', domain: '', name: '', inputs: [] as string[], outputs: [] as string[] }
  const ints = new Map<string, number>()
  const floats = new Map<string, number>()
  const lists = new Map<string, readonly number[]>()
  const tensors = new Map<string, Uint8Array>()
  const metadata = new Map<string, string>()
  for (const field of message.fields()) {
    if (field.number === 1) node.inputs.push(message.text(field, 'an input of a node'))
    else if (field.number === 2) node.outputs.push(message.text(field, 'an output of a node'))
    else if (field.number === 3) node.name = message.text(field, 'the name of a node')
    else if (field.number === 4) node.op = message.text(field, 'op_type')
    else if (field.number === 7) node.domain = message.text(field, 'the domain of a node')
    else if (field.number === 9) {
      const [key, value] = pair(message.child(field, 'metadata_props'))
      metadata.set(key, value)
    } else if (field.number === 5) {
      readAttribute(message.child(field, 'an attribute'), { ints, floats, lists, tensors, graph, reading })
    }
  }
  const domain = node.domain === 'ai.onnx' ? '' : node.domain
  return {
    ...node,
    domain,
    ints,
    floats,
    lists,
    tensors,
    metadata,
    graph,
    at: placeOf(payload, reading.source),
    payload,
  }
}

interface Found {
  readonly ints: Map<string, number>
  readonly floats: Map<string, number>
  readonly lists: Map<string, readonly number[]>
  readonly tensors: Map<string, Uint8Array>
  readonly graph: SurgeryGraph
  readonly reading: Reading
}

/** Longest list of an attribute that is looked at: sizes of a Split. Longer ones are copied unread. */
const MAX_LIST = 16

function readAttribute(message: Message, { ints, floats, lists, tensors, graph, reading }: Found): void {
  let name = ''
  let int: number | undefined
  let float: number | undefined
  let tensor: Uint8Array | undefined
  const list: number[] = []
  for (const part of message.fields()) {
    if (part.number === 1) name = message.text(part, 'the name of an attribute')
    else if (part.number === 2) float = new BinaryReader(message.bytes(part, 'a float')).float()
    else if (part.number === 3) int = typeof part.value === 'number' ? part.value : undefined
    else if (part.number === 5) tensor = message.bytes(part, 'a tensor')
    else if (part.number === 8) list.push(...shortList(part.value))
    else if (part.number === 6 || part.number === 11) {
      graph.subgraphs.push(graphOf(message.bytes(part, 'a subgraph'), graph, reading))
    }
  }
  if (int !== undefined) ints.set(name, int)
  if (float !== undefined) floats.set(name, float)
  if (tensor !== undefined) tensors.set(name, tensor)
  if (list.length > 0 && list.length <= MAX_LIST) lists.set(name, list)
}

/** One number, or several in one field. */
function shortList(value: number | Uint8Array): number[] {
  if (typeof value === 'number') return [value]
  const numbers: number[] = []
  const reader = new BinaryReader(value)
  try {
    while (reader.pos < reader.len && numbers.length <= MAX_LIST) numbers.push(Number(reader.int64()))
  } catch {
    // Other attributes of other operators; whoever needs this list finds none.
    return []
  }
  return numbers
}

/** Metadata is longer than any name, and only its ends are looked at: what is too long or not UTF-8 is left out. */
const MAX_METADATA_BYTES = 2 ** 16

function pair(message: Message): [string, string] {
  let key = ''
  let value = ''
  for (const part of message.fields()) {
    const bytes = message.bytes(part, 'metadata')
    if (bytes.length > MAX_METADATA_BYTES) continue
    if (part.number === 1) key = new TextDecoder().decode(bytes)
    else if (part.number === 2) value = new TextDecoder().decode(bytes)
  }
  return [key, value]
}

function placeOf(payload: Uint8Array, source: OnnxBytes): number {
  return payload.byteOffset - source.bytes.byteOffset
}

/** All graphs of the model, the outer before the inner. */
export function allGraphs(graph: SurgeryGraph): SurgeryGraph[] {
  return [graph, ...graph.subgraphs.flatMap(allGraphs)]
}

/** The initializer that a name means in this scope; an inner value of the same name hides an outer one. */
export function findTensor(graph: SurgeryGraph, name: string): SurgeryTensor | undefined {
  const here = graph.initializers.get(name)
  if (here !== undefined || graph.producers.has(name) || graph.parent === undefined) return here
  return findTensor(graph.parent, name)
}

/** The node that gives a value in this scope or one around it. */
export function producer(graph: SurgeryGraph, name: string): SurgeryNode | undefined {
  for (let at: SurgeryGraph | undefined = graph; at !== undefined; at = at.parent) {
    const found = at.producers.get(name)
    if (found !== undefined) return found
  }
  return undefined
}
