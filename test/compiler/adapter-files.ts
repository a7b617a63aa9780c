// Small adapters and bases for tests of the reader: shapes in, files out, every value its own.
import type { BaseTensors } from '../../compiler/adapter/change.ts'
import type { Dtype } from '../../compiler/safetensors/dtypes.ts'
import type { Files } from './folders.ts'
import { float32, type RawTensor, writeRaw } from './safetensors-file.ts'

export type Shapes = Readonly<Record<string, readonly number[]>>

/** Tensors in F32; where `dtypes` names one, in that, with bytes that are zero. */
export function baseOf(shapes: Shapes, dtypes: Readonly<Record<string, Dtype>> = {}): BaseTensors {
  return new Map(Object.entries(shapes).map(([name, shape]) => [name, { dtype: dtypes[name] ?? 'F32', shape }]))
}

/** The i-th value of the tensor is i + 1, so that no two are equal and none is zero. */
export function rawOf(shape: readonly number[]): RawTensor {
  const count = shape.reduce((product, size) => product * size, 1)
  return { dtype: 'F32', shape: [...shape], data: float32(Array.from({ length: count }, (_, i) => i + 1)) }
}

export function weightsOf(shapes: Shapes): Uint8Array {
  return writeRaw(new Map(Object.entries(shapes).map(([name, shape]) => [name, rawOf(shape)])))
}

/** A PEFT folder. Names without their prefix; r = 2 and lora_alpha = 3 unless the config says otherwise. */
export function peftFiles(shapes: Shapes, config: Record<string, unknown> = {}, prefix = 'base_model.model.'): Files {
  const named = Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [`${prefix}${name}`, shape]))
  return {
    'adapter_config.json': JSON.stringify({ peft_type: 'LORA', r: 2, lora_alpha: 3, ...config }),
    'adapter_model.safetensors': weightsOf(named),
  }
}
