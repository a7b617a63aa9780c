// TensorProto.DataType: the name by which we know each code, and its size. github.com/onnx/onnx, onnx/onnx.proto.

/** By code; bits of one element, 0 where it has no fixed size. */
const ELEMENT_TYPES: readonly (readonly [name: string, bits: number])[] = [
  ['undefined', 0],
  ['float32', 32],
  ['uint8', 8],
  ['int8', 8],
  ['uint16', 16],
  ['int16', 16],
  ['int32', 32],
  ['int64', 64],
  ['string', 0],
  ['bool', 8],
  ['float16', 16],
  ['float64', 64],
  ['uint32', 32],
  ['uint64', 64],
  ['complex64', 64],
  ['complex128', 128],
  ['bfloat16', 16],
  ['float8e4m3fn', 8],
  ['float8e4m3fnuz', 8],
  ['float8e5m2', 8],
  ['float8e5m2fnuz', 8],
  ['uint4', 4],
  ['int4', 4],
  ['float4e2m1', 4],
  ['float8e8m0', 8],
  ['uint2', 2],
  ['int2', 2],
]

export const STRING = 8

export function elementType(code: number): { readonly name: string; readonly bits: number } | undefined {
  const found = ELEMENT_TYPES[code]
  return found === undefined ? undefined : { name: found[0], bits: found[1] }
}

/** prod(dims)·bits / 8, rounded up as sub-byte types are; `undefined` beyond 2^53. */
export function tensorBytes(dims: readonly number[], bits: number): number | undefined {
  if (dims.includes(0)) return 0
  let total = bits
  for (const dim of dims) {
    total *= dim
    if (total > Number.MAX_SAFE_INTEGER) return undefined
  }
  return Math.ceil(total / 8)
}
