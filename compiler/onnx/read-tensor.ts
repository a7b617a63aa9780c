// TensorProto and ValueInfoProto of an untrusted file. Field numbers: github.com/onnx/onnx, onnx/onnx.proto.
import { quote } from '../errors.ts'
import { elementType, STRING, tensorBytes } from './element-types.ts'
import type { Field, Message } from './message.ts'
import type { OnnxTensor, OnnxValue } from './summary.ts'

/** More than any real tensor has, as for safetensors; keeps shapes short in messages. */
const MAX_DIMS = 16
/** location, offset, length, checksum, and as many of a producer's own. */
const MAX_EXTERNAL_ENTRIES = 16
const EXTERNAL = 1
const RAW_DATA = 9
/** float_data, int32_data, string_data, int64_data, double_data, uint64_data. */
const TYPED_DATA: ReadonlySet<number> = new Set([4, 5, 6, 7, 10, 11])
/** No element of typed data is smaller than half a byte or larger, once stored, than 16 bytes. */
const MOST_BYTES_PER_TYPED_BYTE = 16

export function readTensor(message: Message): OnnxTensor {
  let name = ''
  let code = 0
  let location = 0
  let raw: number | undefined
  let typed = 0
  const dims: number[] = []
  const external: Field[] = []
  for (const field of message.fields()) {
    if (field.number === 1) dims.push(...message.counts(field, 'a dimension', MAX_DIMS))
    else if (field.number === 2) code = message.count(field, 'data_type')
    else if (field.number === 8) name = message.text(field, 'the name of a tensor')
    else if (field.number === RAW_DATA) raw = message.bytes(field, 'raw_data').length
    else if (TYPED_DATA.has(field.number)) typed += typeof field.value === 'number' ? 1 : field.value.length
    else if (field.number === 13) external.push(field)
    else if (field.number === 14) location = message.count(field, 'data_location')
    if (dims.length > MAX_DIMS) message.fail(`a tensor of more than ${MAX_DIMS} dimensions`)
    if (external.length > MAX_EXTERNAL_ENTRIES) message.fail(`more than ${MAX_EXTERNAL_ENTRIES} external_data entries`)
  }
  const about = `tensor ${quote(name)}`
  const type = elementType(code)
  if (type === undefined) return message.fail(`${about} has the unknown data_type ${code}`)
  const expected = code === STRING ? typed : tensorBytes(dims, type.bits)
  if (expected === undefined) return message.fail(`${about}, ${type.name} [${dims}], takes more than 2^53 bytes`)
  const tensor = { name, type: type.name, dims, bytes: expected }
  if (location === EXTERNAL) {
    if (raw !== undefined || typed > 0) message.fail(`${about} has data both here and in another file`)
    return { ...tensor, external: readPlace(message, external, about, expected) }
  }
  if (raw !== undefined && raw !== expected) {
    message.fail(`${about}, ${type.name} [${dims}], takes ${expected} bytes but raw_data has ${raw}`)
  }
  if (raw === undefined && expected > typed * MOST_BYTES_PER_TYPED_BYTE) {
    message.fail(`${about}, ${type.name} [${dims}], takes ${expected} bytes but has ${typed} bytes of data`)
  }
  return tensor
}

function readPlace(message: Message, entries: readonly Field[], about: string, expected: number) {
  const place = new Map<string, string>()
  for (const entry of entries) {
    const [key, value] = readPair(message.child(entry, 'external_data'))
    if (place.has(key)) message.fail(`${about}: external_data has ${quote(key)} twice`)
    place.set(key, value)
  }
  const location = place.get('location') ?? ''
  // A path out of the folder would read any file of the machine as weights.
  if (!location.split('/').every((part) => /^[\w-][\w.-]*$/.test(part))) {
    message.fail(`${about}: external_data lies at ${quote(location)}, which is no plain path inside the folder`)
  }
  const number = (key: string, fallback: number): number => {
    const text = place.get(key)
    if (text === undefined) return fallback
    const value = Number(text)
    if (/^\d{1,16}$/.test(text) && Number.isSafeInteger(value)) return value
    return message.fail(`${about}: external_data has the ${key} ${quote(text)}`)
  }
  const length = number('length', expected)
  if (length !== expected) message.fail(`${about} takes ${expected} bytes but external_data has the length ${length}`)
  return { location, offset: number('offset', 0), length }
}

/** StringStringEntryProto. */
function readPair(message: Message): [string, string] {
  let key = ''
  let value = ''
  for (const field of message.fields()) {
    if (field.number === 1) key = message.text(field, 'a key')
    else if (field.number === 2) value = message.text(field, 'a value')
  }
  return [key, value]
}

/** By field of TypeProto. */
const OTHER_TYPES: Readonly<Record<number, string>> = {
  4: 'sequence',
  5: 'map',
  7: 'opaque',
  8: 'sparse tensor',
  9: 'optional',
}

export function readValue(message: Message): OnnxValue {
  let name = ''
  let value: Omit<OnnxValue, 'name'> = { type: 'undefined', shape: undefined }
  for (const field of message.fields()) {
    if (field.number === 1) name = message.text(field, 'the name of a value')
    else if (field.number === 2) value = readType(message.child(field, 'a type'))
  }
  return { name, ...value }
}

function readType(message: Message): Omit<OnnxValue, 'name'> {
  let value: Omit<OnnxValue, 'name'> = { type: 'undefined', shape: undefined }
  for (const field of message.fields()) {
    if (field.number === 1) value = readTensorType(message.child(field, 'a tensor type'))
    const other = OTHER_TYPES[field.number]
    if (other !== undefined) value = { type: other, shape: undefined }
  }
  return value
}

function readTensorType(message: Message): Omit<OnnxValue, 'name'> {
  let code = 0
  let shape: (number | string | null)[] | undefined
  for (const field of message.fields()) {
    if (field.number === 1) code = message.count(field, 'elem_type')
    else if (field.number === 2) shape = readShape(message.child(field, 'a shape'))
  }
  const type = elementType(code)
  return { type: type?.name ?? message.fail(`the unknown elem_type ${code}`), shape }
}

function readShape(message: Message): (number | string | null)[] {
  const shape: (number | string | null)[] = []
  for (const field of message.fields()) {
    if (field.number !== 1) continue
    if (shape.length === MAX_DIMS) message.fail(`a shape of more than ${MAX_DIMS} dimensions`)
    const dim = message.child(field, 'a dimension')
    let size: number | string | null = null
    for (const part of dim.fields()) {
      if (part.number === 1) size = dim.count(part, 'a dimension')
      else if (part.number === 2) size = dim.text(part, 'a dimension')
    }
    shape.push(size)
  }
  return shape
}
