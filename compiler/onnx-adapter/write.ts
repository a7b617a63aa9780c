// Writes ONNX Runtime's .onnx_adapter files front to back; equal parameters in equal order give equal bytes.
import { assert, inputError, quote } from '../errors.ts'
import {
  type AdapterVersions,
  DATA_TYPES,
  DIM_BYTES,
  dataBytes,
  FILE_IDENTIFIER,
  FORMAT_VERSION,
  HEADER_BYTES,
  MAX_DIMS,
  MAX_FILE_BYTES,
  MAX_NAME_BYTES,
  MAX_PARAMETERS,
  type Parameter,
  TABLE_FIELDS,
  VTABLE_ENTRY_BYTES,
  VTABLE_HEADER_BYTES,
  WORD_BYTES,
} from './format.ts'

/** `force_align` of raw_data in the schema. */
export const DATA_ALIGNMENT = 8

const VTABLE_AT = HEADER_BYTES
const VTABLE_BYTES = VTABLE_HEADER_BYTES + TABLE_FIELDS * VTABLE_ENTRY_BYTES
/** The distance back to the vtable, then the fields in the order of the schema, none left out. */
const TABLE_BYTES = WORD_BYTES + TABLE_FIELDS * WORD_BYTES
const ROOT_AT = VTABLE_AT + VTABLE_BYTES
const LIST_AT = ROOT_AT + TABLE_BYTES

const encoder = new TextEncoder()

interface Place {
  readonly table: number
  readonly name: number
  readonly nameBytes: Uint8Array
  /** Places of the length words; the elements follow. */
  readonly dims: number
  readonly data: number
}

export interface Layout {
  readonly places: readonly Place[]
  readonly bytes: number
}

/**
 * One vtable serves all tables, because Adapter and Parameter both have four 4-byte fields:
 * `header | vtable | Adapter | list of Parameters | Parameters | name, dims, raw_data of each`.
 * Throws `InputError` where a limit of the format is exceeded.
 */
export function layOut(parameters: readonly Parameter[]): Layout {
  const count = parameters.length
  if (count === 0) throw inputError('onnx-adapter-invalid', 'an adapter without parameters; it would change nothing')
  if (count > MAX_PARAMETERS) {
    throw inputError('onnx-adapter-invalid', `${count} parameters; at most ${MAX_PARAMETERS} are written`)
  }
  const names = new Set<string>()
  const tables = LIST_AT + WORD_BYTES + count * WORD_BYTES
  let end = tables + count * TABLE_BYTES
  const places = parameters.map((parameter, index) => {
    assert(!names.has(parameter.name), `two parameters are named ${quote(parameter.name)}`)
    names.add(parameter.name)
    checkShape(parameter)
    const nameBytes = encodeName(parameter.name)
    const name = alignUp(end, WORD_BYTES)
    const dims = lengthPlace(name + WORD_BYTES + nameBytes.length + 1)
    const data = lengthPlace(dims + WORD_BYTES + parameter.dims.length * DIM_BYTES)
    end = data + WORD_BYTES + parameter.data.length
    return { table: tables + index * TABLE_BYTES, name, nameBytes, dims, data }
  })
  if (end > MAX_FILE_BYTES) {
    throw inputError(
      'file-too-large',
      `the .onnx_adapter file would have ${end} bytes; FlatBuffers files have at most ${MAX_FILE_BYTES}`,
    )
  }
  return { places, bytes: end }
}

/** The inverse of `readOnnxAdapter`. The result holds a copy of the data. Throws `InputError` beyond a limit. */
export function writeOnnxAdapter(versions: AdapterVersions, parameters: readonly Parameter[]): Uint8Array<ArrayBuffer> {
  const { places, bytes } = layOut(parameters)
  const file = new Uint8Array(bytes)
  const view = new DataView(file.buffer)
  const int = (at: number, value: number) => view.setInt32(at, value, true)
  const point = (at: number, target: number) => int(at, target - at)
  point(0, ROOT_AT)
  file.set(encoder.encode(FILE_IDENTIFIER), WORD_BYTES)
  const vtable = [VTABLE_BYTES, TABLE_BYTES, ...Array.from({ length: TABLE_FIELDS }, (_, i) => (i + 1) * WORD_BYTES)]
  for (const [i, entry] of vtable.entries()) view.setUint16(VTABLE_AT + i * VTABLE_ENTRY_BYTES, entry, true)
  int(ROOT_AT, ROOT_AT - VTABLE_AT)
  int(ROOT_AT + 4, FORMAT_VERSION)
  int(ROOT_AT + 8, checkInt32(versions.adapterVersion, 'adapter version'))
  int(ROOT_AT + 12, checkInt32(versions.modelVersion, 'model version'))
  point(ROOT_AT + 16, LIST_AT)
  int(LIST_AT, places.length)
  for (const [index, { table, name, nameBytes, dims, data }] of places.entries()) {
    const parameter = parameters[index] as Parameter
    point(LIST_AT + WORD_BYTES + index * WORD_BYTES, table)
    int(table, table - VTABLE_AT)
    point(table + 4, name)
    point(table + 8, dims)
    int(table + 12, DATA_TYPES[parameter.dataType].code)
    point(table + 16, data)
    int(name, nameBytes.length)
    file.set(nameBytes, name + WORD_BYTES)
    int(dims, parameter.dims.length)
    for (const [i, dim] of parameter.dims.entries()) {
      view.setBigInt64(dims + WORD_BYTES + i * DIM_BYTES, BigInt(dim), true)
    }
    int(data, parameter.data.length)
    file.set(parameter.data, data + WORD_BYTES)
  }
  return file
}

function checkShape({ name, dims, dataType, data }: Parameter): void {
  const about = `parameter ${quote(name)}`
  assert(dims.length >= 1 && dims.length <= MAX_DIMS, `${about} has ${dims.length} dims`)
  assert(
    dims.every((dim) => Number.isSafeInteger(dim) && dim >= 0),
    `${about} has the dims [${dims}]`,
  )
  assert(dataBytes(dims, dataType) === data.length, `${about}, ${dataType} [${dims}], has ${data.length} bytes`)
}

function encodeName(name: string): Uint8Array {
  assert(name.isWellFormed(), `parameter ${quote(name)} has a lone surrogate in its name`)
  const bytes = encoder.encode(name)
  if (bytes.length >= 1 && bytes.length <= MAX_NAME_BYTES && !bytes.includes(0)) return bytes
  throw inputError(
    'onnx-adapter-invalid',
    `parameter ${quote(name)} has a name of ${bytes.length} bytes; 1 to ${MAX_NAME_BYTES} without NUL are written`,
  )
}

function checkInt32(value: number, what: string): number {
  if (Number.isInteger(value) && value === (value | 0)) return value
  throw inputError('onnx-adapter-invalid', `${what} ${value}; the format holds a 32-bit integer`)
}

function alignUp(at: number, alignment: number): number {
  return Math.ceil(at / alignment) * alignment
}

/** The first place from `at` for a length word whose elements are then aligned. */
function lengthPlace(at: number): number {
  return alignUp(at + WORD_BYTES, DATA_ALIGNMENT) - WORD_BYTES
}
