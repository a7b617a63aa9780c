// The adapters that the tests write, and that test/parity/onnx-adapter-oracle.py lets ONNX Runtime read.
import type { RoutedModule } from '../../compiler/onnx-adapter/export.ts'
import type { AdapterVersions, Parameter } from '../../compiler/onnx-adapter/format.ts'

/** Multiples of 1/64 in [-2, 2): exact in every float type, and in no order that a transpose would keep. */
function values(seed: number, count: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => (((i + 1) * (2 * seed + 37) * 29) % 256) / 64 - 2)
}

function routedModule(seed: number, inputs: number, r: number, out: number): RoutedModule {
  return { A: values(seed, inputs * r), B: values(seed + 1, r * out), r, in: inputs, out }
}

export const QUERY = 'model.layers.0.self_attn.q_proj'
export const DOWN = 'model.layers.1.mlp.down_proj'

/** Two linears of different shape and rank, neither square. */
export const MODULES: ReadonlyMap<string, RoutedModule> = new Map([
  [DOWN, routedModule(5, 28, 7, 12)],
  [QUERY, routedModule(3, 12, 3, 20)],
])

const bytes = (...list: number[]) => Uint8Array.from(list)

/** Every element type, a rank of zero (Olive's optional inputs), sizes that need padding, a name beyond ASCII. */
export const ALL_TYPES: readonly Parameter[] = [
  { name: 'float', dims: [2, 3], dataType: 'FLOAT', data: new Uint8Array(values(1, 6).buffer) },
  { name: 'rank.zero', dims: [5, 0], dataType: 'FLOAT', data: bytes() },
  { name: 'float16', dims: [3], dataType: 'FLOAT16', data: bytes(0, 0x3c, 0, 0xc0, 1, 0) },
  { name: 'bfloat16', dims: [1, 3], dataType: 'BFLOAT16', data: bytes(0x80, 0x3f, 0, 0xc0, 0x49, 0x40) },
  { name: 'int8', dims: [5], dataType: 'INT8', data: bytes(0, 1, 127, 128, 255) },
  { name: 'uint8', dims: [1, 1, 1], dataType: 'UINT8', data: bytes(200) },
  { name: 'int16', dims: [2], dataType: 'INT16', data: bytes(0xff, 0x7f, 0, 0x80) },
  { name: 'uint16', dims: [1], dataType: 'UINT16', data: bytes(0xff, 0xff) },
  { name: 'int32', dims: [1], dataType: 'INT32', data: bytes(0, 0, 0, 0x80) },
  { name: 'uint32', dims: [1], dataType: 'UINT32', data: bytes(1, 2, 3, 0xf4) },
  { name: 'int64', dims: [1], dataType: 'INT64', data: bytes(1, 2, 3, 4, 5, 6, 7, 0x88) },
  { name: 'ünï.重み', dims: [1], dataType: 'UINT64', data: bytes(255, 254, 253, 252, 251, 250, 249, 248) },
]

export const ALL_TYPES_VERSIONS: AdapterVersions = { adapterVersion: 2 ** 31 - 1, modelVersion: -(2 ** 31) }

/** Small enough to mutate every byte in every way. */
export const TINY: readonly Parameter[] = [
  { name: 'a', dims: [2, 1], dataType: 'FLOAT16', data: bytes(0, 0x3c, 0, 0xc0) },
  { name: 'b', dims: [1, 3], dataType: 'INT8', data: bytes(1, 2, 253) },
]
