// Graph → the bytes of an ONNX file. Field numbers: github.com/onnx/onnx, onnx/onnx.proto.
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire'
import { compareCodePoints } from '../canonical-json.ts'
import { assert } from '../errors.ts'
import type { Attribute, ElementType, ExternalTensor, Graph, InlineTensor, Node, ValueInfo } from './model.ts'

export const OPSET = 21
/** The version that introduced opset 21; newer ones shut out older runtimes for nothing. */
const IR_VERSION = 10
const PRODUCER = 'sidepath'

const ELEMENT_TYPES: Readonly<Record<ElementType, number>> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  uint4: 21,
}
/** Operators beyond the standard's: those of ONNX Runtime. */
export const MICROSOFT = 'com.microsoft'
/** Each set's version: ONNX Runtime's only version is 1. */
const EXTRA_OPSETS: Readonly<Record<string, number>> = { [MICROSOFT]: 1 }
const ATTRIBUTE_FLOAT = 1
const ATTRIBUTE_INT = 2
const ATTRIBUTE_STRING = 3
const ATTRIBUTE_INTS = 7
const DATA_LOCATION_EXTERNAL = 1

type Write = (writer: BinaryWriter) => void

/** Equal graphs give equal bytes. */
export function encodeModel(graph: Graph): Uint8Array<ArrayBuffer> {
  const writer = new BinaryWriter()
  int64(writer, 1, IR_VERSION)
  string(writer, 2, PRODUCER)
  message(writer, 7, (to) => writeGraph(to, graph))
  const domains = new Set(graph.nodes.flatMap(({ domain }) => domain ?? []))
  for (const domain of ['', ...[...domains].sort(compareCodePoints)]) {
    const version = domain === '' ? OPSET : EXTRA_OPSETS[domain]
    assert(version !== undefined, `no version of the operators of ${domain} is known`)
    message(writer, 8, (to) => {
      string(to, 1, domain)
      int64(to, 2, version)
    })
  }
  return writer.finish()
}

function writeGraph(writer: BinaryWriter, graph: Graph): void {
  for (const node of graph.nodes) message(writer, 1, (to) => writeNode(to, node))
  string(writer, 2, graph.name)
  for (const tensor of graph.constants) message(writer, 5, (to) => writeInline(to, tensor))
  for (const tensor of graph.weights) message(writer, 5, (to) => writeExternal(to, tensor))
  for (const value of graph.inputs) message(writer, 11, (to) => writeValue(to, value))
  for (const value of graph.outputs) message(writer, 12, (to) => writeValue(to, value))
  for (const value of graph.values ?? []) message(writer, 13, (to) => writeValue(to, value))
}

export function writeNode(writer: BinaryWriter, node: Node): void {
  for (const input of node.inputs) string(writer, 1, input)
  for (const output of node.outputs) string(writer, 2, output)
  string(writer, 3, node.name)
  string(writer, 4, node.op)
  const attributes = Object.entries(node.attributes).sort(([a], [b]) => compareCodePoints(a, b))
  for (const [name, value] of attributes) message(writer, 5, (to) => writeAttribute(to, name, value))
  if (node.domain !== undefined) string(writer, 7, node.domain)
}

function writeAttribute(writer: BinaryWriter, name: string, value: Attribute): void {
  string(writer, 1, name)
  if (typeof value === 'number') int64(writer, 3, value)
  else if ('float' in value) writer.tag(2, WireType.Bit32).float(value.float)
  else if ('string' in value) string(writer, 4, value.string)
  else for (const item of value) int64(writer, 8, item)
  int64(writer, 20, attributeType(value))
}

function attributeType(value: Attribute): number {
  if (typeof value === 'number') return ATTRIBUTE_INT
  if ('float' in value) return ATTRIBUTE_FLOAT
  return 'string' in value ? ATTRIBUTE_STRING : ATTRIBUTE_INTS
}

function writeInline(writer: BinaryWriter, { name, dims, data, type }: InlineTensor): void {
  for (const dim of dims) int64(writer, 1, dim)
  const bytes = type ?? 'uint8'
  int64(
    writer,
    2,
    ELEMENT_TYPES[data instanceof Float32Array ? 'float32' : data instanceof Uint8Array ? bytes : 'int64'],
  )
  string(writer, 8, name)
  writer.tag(9, WireType.LengthDelimited).bytes(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
}

export function writeExternal(writer: BinaryWriter, tensor: ExternalTensor): void {
  for (const dim of tensor.dims) int64(writer, 1, dim)
  int64(writer, 2, ELEMENT_TYPES[tensor.type ?? 'float32'])
  string(writer, 8, tensor.name)
  const place = { location: tensor.location, offset: String(tensor.offset), length: String(tensor.bytes) }
  for (const [key, value] of Object.entries(place)) {
    message(writer, 13, (to) => {
      string(to, 1, key)
      string(to, 2, value)
    })
  }
  int64(writer, 14, DATA_LOCATION_EXTERNAL)
}

function writeValue(writer: BinaryWriter, { name, type, shape }: ValueInfo): void {
  string(writer, 1, name)
  message(writer, 2, (valueType) => {
    message(valueType, 1, (tensorType) => {
      int64(tensorType, 1, ELEMENT_TYPES[type])
      message(tensorType, 2, (dims) => {
        for (const size of shape) {
          message(dims, 1, (dim) => (typeof size === 'number' ? int64(dim, 1, size) : string(dim, 2, size)))
        }
      })
    })
  })
}

function message(writer: BinaryWriter, field: number, write: Write): void {
  writer.tag(field, WireType.LengthDelimited).fork()
  write(writer)
  writer.join()
}

function string(writer: BinaryWriter, field: number, value: string): void {
  writer.tag(field, WireType.LengthDelimited).string(value)
}

function int64(writer: BinaryWriter, field: number, value: number): void {
  writer.tag(field, WireType.Varint).int64(value)
}
