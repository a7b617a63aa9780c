// A compiled routed adapter → an .onnx_adapter file, for ONNX Runtime's C++, C#, Java and Python users.
import { compareCodePoints } from '../canonical-json.ts'
import { assert } from '../errors.ts'
import type { AdapterVersions, Parameter } from './format.ts'
import { writeOnnxAdapter } from './write.ts'

/** One linear of the adapter: ΔW = A·B, the scaling already folded into B. */
export interface RoutedModule {
  /** Row-major [in, r]: PEFT's lora_A transposed. */
  readonly A: Float32Array
  /** Row-major [r, out]: PEFT's lora_B transposed, times the scaling. */
  readonly B: Float32Array
  readonly r: number
  readonly in: number
  readonly out: number
}

/** What ONNX Runtime's own examples and converters write; no reader looks at them. */
const DEFAULT_VERSIONS: AdapterVersions = { adapterVersion: 1, modelVersion: 1 }

/**
 * Names and orientation are Olive's (github.com/microsoft/Olive, passes/onnx/extract_adapters.py):
 * `<module>.lora_A.weight` [in, r] and `<module>.lora_B.weight` [r, out]. The bytes do not depend on the map's order.
 */
export function exportOnnxAdapter(
  modules: ReadonlyMap<string, RoutedModule>,
  versions: AdapterVersions = DEFAULT_VERSIONS,
): Uint8Array<ArrayBuffer> {
  const sorted = [...modules].sort(([a], [b]) => compareCodePoints(a, b))
  const parameters = sorted.flatMap(([module, { A, B, r, in: inputs, out }]) => [
    floatParameter(`${module}.lora_A.weight`, [inputs, r], A),
    floatParameter(`${module}.lora_B.weight`, [r, out], B),
  ])
  return writeOnnxAdapter(versions, parameters)
}

// Typed arrays are in the machine's order, the format is little-endian, and so is every machine that runs this.
function floatParameter(name: string, dims: readonly [number, number], values: Float32Array): Parameter {
  assert(values.length === dims[0] * dims[1], `${name} has ${values.length} values, not [${dims}]`)
  return {
    name,
    dims,
    dataType: 'FLOAT',
    data: new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
  }
}
