// A small ONNX reader for tests: what a file says, by the field numbers of onnx.proto and not by our encoder.
import { BinaryReader, WireType } from '@bufbuild/protobuf/wire'

type Fields = Map<number, (Uint8Array | number)[]>

/** Every field of a message, undecoded: length-delimited as bytes, varints as numbers. */
function fields(bytes: Uint8Array): Fields {
  const reader = new BinaryReader(bytes)
  const found: Fields = new Map()
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag()
    const value = wireType === WireType.LengthDelimited ? reader.bytes() : Number(reader.int64())
    found.set(field, [...(found.get(field) ?? []), value])
  }
  return found
}

const bytesOf = (message: Fields, field: number) => (message.get(field) ?? []) as Uint8Array[]
const numbersOf = (message: Fields, field: number) => (message.get(field) ?? []) as number[]
const textsOf = (message: Fields, field: number) =>
  bytesOf(message, field).map((part) => new TextDecoder().decode(part))

export interface OnnxFile {
  readonly irVersion: number
  readonly opsets: readonly { domain: string; version: number }[]
  readonly nodes: readonly { op: string; name: string; domain: string; inputs: string[]; outputs: string[] }[]
  readonly inputs: Readonly<Record<string, { type: number; shape: (number | string)[] }>>
  readonly outputs: Readonly<Record<string, { type: number; shape: (number | string)[] }>>
  readonly external: Readonly<Record<string, { dims: number[]; location: string; offset: number; length: number }>>
  readonly inlineBytes: number
}

export function parseOnnx(file: Uint8Array): OnnxFile {
  const model = fields(file)
  const graph = fields(bytesOf(model, 7)[0] as Uint8Array)
  const tensors = bytesOf(graph, 5).map(fields)
  const external = tensors.filter((tensor) => numbersOf(tensor, 14)[0] === 1)
  return {
    irVersion: numbersOf(model, 1)[0] as number,
    opsets: bytesOf(model, 8)
      .map(fields)
      .map((set) => ({ domain: textsOf(set, 1)[0] ?? '', version: numbersOf(set, 2)[0] as number })),
    nodes: bytesOf(graph, 1)
      .map(fields)
      .map((node) => ({
        op: textsOf(node, 4)[0] as string,
        name: textsOf(node, 3)[0] as string,
        domain: textsOf(node, 7)[0] ?? '',
        inputs: textsOf(node, 1),
        outputs: textsOf(node, 2),
      })),
    inputs: Object.fromEntries(bytesOf(graph, 11).map(parseValue)),
    outputs: Object.fromEntries(bytesOf(graph, 12).map(parseValue)),
    external: Object.fromEntries(
      external.map((tensor) => {
        const place = new Map(
          bytesOf(tensor, 13)
            .map(fields)
            .map((pair) => [textsOf(pair, 1)[0] as string, textsOf(pair, 2)[0] as string]),
        )
        const [offset, length] = [Number(place.get('offset')), Number(place.get('length'))]
        return [textsOf(tensor, 8)[0], { dims: numbersOf(tensor, 1), location: place.get('location'), offset, length }]
      }),
    ),
    inlineBytes: tensors.flatMap((tensor) => bytesOf(tensor, 9)).reduce((sum, data) => sum + data.length, 0),
  }
}

function parseValue(bytes: Uint8Array): [string, { type: number; shape: (number | string)[] }] {
  const value = fields(bytes)
  const tensor = fields(bytesOf(fields(bytesOf(value, 2)[0] as Uint8Array), 1)[0] as Uint8Array)
  const shape = bytesOf(fields(bytesOf(tensor, 2)[0] as Uint8Array), 1)
    .map(fields)
    .map((dim) => numbersOf(dim, 1)[0] ?? (textsOf(dim, 2)[0] as string))
  return [textsOf(value, 1)[0] as string, { type: numbersOf(tensor, 1)[0] as number, shape }]
}
