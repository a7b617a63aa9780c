// Reads ONNX Runtime's .onnx_adapter files: hostile until every offset, length and shape agrees with the bytes.
import { inputError, quote } from '../errors.ts'
import { type Fields, FlatBuffer } from './flatbuffer.ts'
import {
  type AdapterVersions,
  type DataType,
  DIM_BYTES,
  dataBytes,
  dataTypeOf,
  FILE_IDENTIFIER,
  FORMAT_VERSION,
  HEADER_BYTES,
  MAX_DIMS,
  MAX_FILE_BYTES,
  MAX_NAME_BYTES,
  MAX_PARAMETERS,
  type Parameter,
  WORD_BYTES,
} from './format.ts'

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

interface ReadParameter extends Parameter {
  /**
   * A view of the file's bytes. Aligned to 4 only: the schema asks for 8, but ONNX Runtime's own writer does not obey.
   */
  readonly data: Uint8Array<ArrayBuffer>
}

export interface OnnxAdapter extends AdapterVersions {
  readonly formatVersion: number
  /** In the order of the file; names are unique. */
  readonly parameters: readonly ReadParameter[]
}

/**
 * `file` names the bytes in errors. Throws `InputError` (`onnx-adapter-invalid`, or `file-too-large`) with the byte where
 * the file is wrong. Copies no tensor; what it allocates is bounded by the size of the file.
 */
export function readOnnxAdapter(bytes: Uint8Array<ArrayBuffer>, file: string): OnnxAdapter {
  if (bytes.length > MAX_FILE_BYTES) {
    throw inputError(
      'file-too-large',
      `${file}: ${bytes.length} bytes; FlatBuffers files have at most ${MAX_FILE_BYTES}`,
    )
  }
  const buffer = new FlatBuffer(bytes, file)
  if (bytes.length < HEADER_BYTES) buffer.fail(0, `${bytes.length} bytes; even the header has ${HEADER_BYTES}`)
  if (!isIdentified(bytes)) buffer.fail(WORD_BYTES, `no "${FILE_IDENTIFIER}"; this is not an .onnx_adapter file`)
  const root = buffer.follow(0, 'the adapter')
  const [format, adapter, model, list] = buffer.fields(root, 'the adapter')
  const formatVersion = intField(buffer, format)
  if (formatVersion !== FORMAT_VERSION) {
    buffer.fail(format ?? root, `format version ${formatVersion}; this reader knows ${FORMAT_VERSION}`)
  }
  return {
    formatVersion,
    adapterVersion: intField(buffer, adapter),
    modelVersion: intField(buffer, model),
    parameters: readParameters(buffer, root, list),
  }
}

function readParameters(buffer: FlatBuffer, root: number, field: number | undefined): ReadParameter[] {
  const what = 'the list of parameters'
  const vector = field === undefined ? undefined : buffer.vector(buffer.follow(field, what), WORD_BYTES, what)
  if (vector === undefined || vector.count === 0) {
    return buffer.fail(field ?? root, 'no parameters; the base would be served unchanged')
  }
  if (vector.count > MAX_PARAMETERS) {
    buffer.fail(vector.at, `${vector.count} parameters; at most ${MAX_PARAMETERS} are read`)
  }
  const names = new Set<string>()
  const parameters: ReadParameter[] = []
  for (let index = 0; index < vector.count; index += 1) {
    const at = buffer.follow(vector.at + index * WORD_BYTES, `parameter ${index}`)
    const parameter = readParameter(buffer, at, index)
    if (names.has(parameter.name)) buffer.fail(at, `parameter ${quote(parameter.name)} is there twice`)
    names.add(parameter.name)
    parameters.push(parameter)
  }
  return parameters
}

function readParameter(buffer: FlatBuffer, at: number, index: number): ReadParameter {
  const fields: Fields = buffer.fields(at, `parameter ${index}`)
  const [nameField, dimsField, typeField, dataField] = fields
  if (nameField === undefined) return buffer.fail(at, `parameter ${index} has no name`)
  const name = readName(buffer, nameField, index)
  const about = `parameter ${quote(name)}`
  if (dimsField === undefined) return buffer.fail(at, `${about} has no dims`)
  const dims = readDims(buffer, dimsField, about)
  const dataType = readDataType(buffer, typeField, at, about)
  if (dataField === undefined) return buffer.fail(at, `${about} has no raw_data`)
  const data = buffer.vector(buffer.follow(dataField, `the raw_data of ${about}`), 1, `the raw_data of ${about}`)
  const expected = dataBytes(dims, dataType)
  if (expected !== data.count) {
    const needs = expected === undefined ? 'more than 2^53' : expected
    buffer.fail(data.at, `${about}, ${dataType} [${dims}], takes ${needs} bytes but raw_data has ${data.count}`)
  }
  return { name, dims, dataType, data: buffer.slice(data.at, data.count) }
}

function readName(buffer: FlatBuffer, field: number, index: number): string {
  const what = `the name of parameter ${index}`
  const span = buffer.vector(buffer.follow(field, what), 1, what)
  if (span.count === 0) buffer.fail(span.at, `${what} is empty`)
  if (span.count > MAX_NAME_BYTES) buffer.fail(span.at, `${what} has ${span.count} bytes; at most ${MAX_NAME_BYTES}`)
  const bytes = buffer.slice(span.at, span.count)
  // A string ends with a NUL that its length does not count; one inside would cut the name short in C.
  if (buffer.slice(span.at + span.count, 1)[0] !== 0) buffer.fail(span.at, `${what} does not end with a NUL`)
  if (bytes.includes(0)) buffer.fail(span.at, `${what} has a NUL inside`)
  try {
    return utf8.decode(bytes)
  } catch {
    return buffer.fail(span.at, `${what} is not UTF-8`)
  }
}

function readDims(buffer: FlatBuffer, field: number, about: string): number[] {
  const what = `the dims of ${about}`
  const span = buffer.vector(buffer.follow(field, what), DIM_BYTES, what)
  if (span.count === 0) buffer.fail(span.at, `${about} has empty dims; ONNX Runtime takes no scalars here`)
  if (span.count > MAX_DIMS) buffer.fail(span.at, `${about} has ${span.count} dims; at most ${MAX_DIMS}`)
  return Array.from({ length: span.count }, (_, i) => {
    const at = span.at + i * DIM_BYTES
    const dim = buffer.int64(at)
    if (dim < 0 || dim > Number.MAX_SAFE_INTEGER) buffer.fail(at, `${about} has the dim ${dim}; 0 to 2^53 - 1 exist`)
    return dim
  })
}

function readDataType(buffer: FlatBuffer, field: number | undefined, table: number, about: string): DataType {
  const code = intField(buffer, field)
  return (
    dataTypeOf(code) ??
    buffer.fail(field ?? table, `${about} has data_type ${code}; FLOAT, FLOAT16, BFLOAT16 and integers are read`)
  )
}

/** The schema's default for an int or enum that a file leaves out is 0. */
function intField(buffer: FlatBuffer, field: number | undefined): number {
  return field === undefined ? 0 : buffer.int32(field)
}

function isIdentified(bytes: Uint8Array): boolean {
  return [...FILE_IDENTIFIER].every((char, i) => bytes[WORD_BYTES + i] === char.charCodeAt(0))
}
