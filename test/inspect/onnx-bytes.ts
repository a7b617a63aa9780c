// Writes ONNX messages field by field for tests, by the numbers of onnx.proto and not by our encoder.
import { BinaryWriter, WireType } from '@bufbuild/protobuf/wire'

type FieldValue = number | string | Uint8Array
type Field = readonly [field: number, value: FieldValue]

/** A message of these fields, in this order. */
export function message(...fields: readonly Field[]): Uint8Array {
  const writer = new BinaryWriter()
  for (const [field, value] of fields) {
    if (typeof value === 'number') writer.tag(field, WireType.Varint).int64(value)
    else if (typeof value === 'string') writer.tag(field, WireType.LengthDelimited).string(value)
    else writer.tag(field, WireType.LengthDelimited).bytes(value)
  }
  return writer.finish()
}

export const FLOAT = 1

export const node = (op: string, inputs: string[], outputs: string[], ...more: Field[]) =>
  message(...inputs.map((name): Field => [1, name]), ...outputs.map((name): Field => [2, name]), [4, op], ...more)

export function value(name: string, type: number, shape: readonly (number | string)[]): Uint8Array {
  const dims = shape.map((size): Field => [1, message([typeof size === 'number' ? 1 : 2, size])])
  const tensor = message([1, type], [2, message(...dims)])
  return message([1, name], [2, message([1, tensor])])
}

export const raw = (name: string, dims: readonly number[], bytes: number, type = FLOAT) =>
  message(...dims.map((dim): Field => [1, dim]), [2, type], [8, name], [9, new Uint8Array(bytes)])

export function external(name: string, dims: readonly number[], place: Readonly<Record<string, string>>): Uint8Array {
  const entries = Object.entries(place).map(([key, text]): Field => [13, message([1, key], [2, text])])
  return message(...dims.map((dim): Field => [1, dim]), [2, FLOAT], [8, name], ...entries, [14, 1])
}

/** A model whose graph has these fields. */
export const model = (...graph: Field[]) =>
  message([1, 10], [2, 'somebody'], [7, message([2, 'g'], ...graph)], [8, message([1, ''], [2, 21])])
