// What reader and writer of ONNX Runtime's .onnx_adapter share: the FlatBuffers schema's numbers, element types, limits.
// Schema: github.com/microsoft/onnxruntime, onnxruntime/lora/adapter_format/adapter_schema.fbs.

/** `file_identifier` of the schema, after the 4 bytes of the root offset. */
export const FILE_IDENTIFIER = 'TORT'
/** The only format version that ONNX Runtime has defined. */
export const FORMAT_VERSION = 1

/** Root offset and identifier. */
export const HEADER_BYTES = 8
/** Lengths, offsets and the schema's `int` and enum fields. */
export const WORD_BYTES = 4
export const DIM_BYTES = 8
/** Both tables have four fields; ORT's Adapter and Parameter gained none since version 1. */
export const TABLE_FIELDS = 4
/** Its own size and its table's, before one entry per field. */
export const VTABLE_HEADER_BYTES = 4
export const VTABLE_ENTRY_BYTES = 2

/** FlatBuffers offsets are signed 32-bit inside the verifier, which wants less than 2^31 - 1 bytes. */
export const MAX_FILE_BYTES = 2 ** 31 - 2
/** Two factors of 3 expert linears × 256 experts × 61 layers, the largest public mixture of experts, are 94 thousand. */
export const MAX_PARAMETERS = 2 ** 18
/** Module paths of public models stay below 200 bytes. */
export const MAX_NAME_BYTES = 1024
/** More than any real tensor has, as for safetensors; keeps shapes short in messages. */
export const MAX_DIMS = 16

/**
 * The element types that are accepted: code in `TensorDataType` and bytes of one element. STRING would be pointers to
 * ONNX Runtime (its pull request 31682), BOOL it refuses, and no LoRA weight is DOUBLE, complex or float8.
 */
export const DATA_TYPES = {
  FLOAT: { code: 1, bytes: 4 },
  UINT8: { code: 2, bytes: 1 },
  INT8: { code: 3, bytes: 1 },
  UINT16: { code: 4, bytes: 2 },
  INT16: { code: 5, bytes: 2 },
  INT32: { code: 6, bytes: 4 },
  INT64: { code: 7, bytes: 8 },
  FLOAT16: { code: 10, bytes: 2 },
  UINT32: { code: 12, bytes: 4 },
  UINT64: { code: 13, bytes: 8 },
  BFLOAT16: { code: 16, bytes: 2 },
} as const satisfies Readonly<Record<string, { readonly code: number; readonly bytes: number }>>

export type DataType = keyof typeof DATA_TYPES

const BY_CODE: ReadonlyMap<number, DataType> = new Map(
  Object.entries(DATA_TYPES).map(([name, { code }]) => [code, name as DataType]),
)

export function dataTypeOf(code: number): DataType | undefined {
  return BY_CODE.get(code)
}

export interface Parameter {
  /** The graph input that it feeds. */
  readonly name: string
  /** At least one; ONNX Runtime refuses scalars here. */
  readonly dims: readonly number[]
  readonly dataType: DataType
  /** Row-major, little-endian. */
  readonly data: Uint8Array
}

export interface AdapterVersions {
  /** The author's own count, int32; ONNX Runtime does not look at it. */
  readonly adapterVersion: number
  /** Which model it is for, by the author's own count, int32; ONNX Runtime does not look at it. */
  readonly modelVersion: number
}

/**
 * prod(dims) · bytes of an element, or `undefined` beyond 2^53. The product is taken over the non-zero dims, because
 * readers that multiply from the left overflow before they meet the zero.
 */
export function dataBytes(dims: readonly number[], dataType: DataType): number | undefined {
  let bytes: number = DATA_TYPES[dataType].bytes
  for (const dim of dims) {
    if (dim !== 0) bytes *= dim
    if (bytes > Number.MAX_SAFE_INTEGER) return undefined
  }
  return dims.includes(0) ? 0 : bytes
}
