// Reads an ONNX file, hostile until proven otherwise: graphs, nodes, inputs, outputs and where the weights are, not the
// weights. Field numbers: github.com/onnx/onnx, onnx/onnx.proto.
import { inputError, quote } from '../errors.ts'
import { Message } from './message.ts'
import { readTensor, readValue } from './read-tensor.ts'
import type { OnnxGraph, OnnxModel, OnnxNode, OnnxTensor, OnnxValue } from './summary.ts'

/** Protobuf's own limit. Larger models keep their weights in other files. */
export const MAX_ONNX_BYTES = 2 ** 31 - 1
/** If in Loop in If … of real models stays below 5. */
const MAX_DEPTH = 16

/**
 * `file` names the bytes in errors. Throws `InputError` (`onnx-invalid`, or `file-too-large`) with the byte where the
 * file is wrong. Copies no weight.
 */
export function readOnnx(bytes: Uint8Array, file: string): OnnxModel {
  if (bytes.length > MAX_ONNX_BYTES) {
    throw inputError('file-too-large', `${file}: ${bytes.length} bytes; protobuf files have at most ${MAX_ONNX_BYTES}`)
  }
  const message = new Message({ name: file, bytes, fields: 0 })
  let irVersion = 0
  let producer = ''
  let functions = 0
  let graph: OnnxGraph | undefined
  const opsets: { domain: string; version: number }[] = []
  for (const field of message.fields()) {
    if (field.number === 1) irVersion = message.count(field, 'ir_version')
    else if (field.number === 2) producer = message.text(field, 'producer_name')
    else if (field.number === 8) opsets.push(readOpset(message.child(field, 'opset_import')))
    else if (field.number === 25) functions += 1
    else if (field.number === 7) {
      // Protobuf would merge two into one; readers that take the last would see another model.
      if (graph !== undefined) message.fail('a second graph')
      graph = readGraph(message.child(field, 'the graph'), 0)
    }
  }
  if (graph === undefined) return message.fail('there is no graph; this is not an ONNX model')
  if (irVersion === 0) return message.fail('there is no ir_version; this is not an ONNX model')
  return { irVersion, producer, opsets, functions, graph }
}

function readOpset(message: Message): { domain: string; version: number } {
  let domain = ''
  let version = 0
  for (const field of message.fields()) {
    if (field.number === 1) domain = message.text(field, 'the domain of an opset')
    else if (field.number === 2) version = message.count(field, 'the version of an opset')
  }
  return { domain, version }
}

function readGraph(message: Message, depth: number): OnnxGraph {
  if (depth > MAX_DEPTH) message.fail(`graphs nested deeper than ${MAX_DEPTH}`)
  let name = ''
  const nodes: OnnxNode[] = []
  const inputs: OnnxValue[] = []
  const outputs: OnnxValue[] = []
  const initializers: OnnxTensor[] = []
  for (const field of message.fields()) {
    if (field.number === 1) nodes.push(readNode(message.child(field, 'a node'), depth))
    else if (field.number === 2) name = message.text(field, 'the name of a graph')
    else if (field.number === 5) initializers.push(readTensor(message.child(field, 'an initializer')))
    else if (field.number === 11) inputs.push(readValue(message.child(field, 'an input')))
    else if (field.number === 12) outputs.push(readValue(message.child(field, 'an output')))
  }
  for (const [what, list] of [
    ['initializers', initializers],
    ['inputs', inputs],
    ['outputs', outputs],
  ] as const) {
    const twice = firstTwice(list.map((item) => item.name))
    if (twice !== undefined) message.fail(`two ${what} are named ${quote(twice)}`)
  }
  return { name, nodes, inputs, outputs, initializers }
}

function readNode(message: Message, depth: number): OnnxNode {
  let op = ''
  let domain = ''
  let name = ''
  let tensorBytes = 0
  const inputs: string[] = []
  const outputs: string[] = []
  const subgraphs: OnnxGraph[] = []
  for (const field of message.fields()) {
    if (field.number === 1) inputs.push(message.text(field, 'an input of a node'))
    else if (field.number === 2) outputs.push(message.text(field, 'an output of a node'))
    else if (field.number === 3) name = message.text(field, 'the name of a node')
    else if (field.number === 4) op = message.text(field, 'op_type')
    else if (field.number === 7) domain = message.text(field, 'the domain of a node')
    else if (field.number === 5) {
      const attribute = message.child(field, 'an attribute')
      for (const part of attribute.fields()) {
        const isGraph = part.number === 6 || part.number === 11
        const isTensor = part.number === 5 || part.number === 10
        if (isGraph) subgraphs.push(readGraph(attribute.child(part, 'a subgraph'), depth + 1))
        else if (isTensor) tensorBytes += readTensor(attribute.child(part, 'a tensor')).bytes
      }
    }
  }
  if (op === '') message.fail('a node without op_type')
  return { op, domain, name, inputs, outputs, subgraphs, tensorBytes }
}

function firstTwice(names: readonly string[]): string | undefined {
  const seen = new Set<string>()
  return names.find((name) => {
    const twice = seen.has(name)
    seen.add(name)
    return twice
  })
}
