// A checked adapter → the bytes of adapters/<digest>.safetensors. Specification: docs/artifact-format.md.

import { inputError } from '../errors.ts'
import { firstNonFinite } from '../safetensors/decode.ts'
import { encodeSafetensors, type FloatTensor } from '../safetensors/write.ts'
import type { Adapter, AdapterModule } from './read.ts'

export const ADAPTER_SCHEMA = 'sidepath.adapter/1'
export const ADAPTER_METADATA = {
  schema: 'sidepath.schema',
  base: 'sidepath.base',
  name: 'sidepath.name',
} as const

export const factorA = (module: string) => `${module}.lora_A`
export const factorB = (module: string) => `${module}.lora_B`

/** Where a routed artifact, or a store of adapters, keeps the file with this digest. */
export const adapterPath = (digest: string) => `adapters/${digest}.safetensors`

/** Throws `InputError` where folding the scaling into B leaves the range of fp32. */
export function encodeAdapter(adapter: Adapter, baseDigest: string): Uint8Array<ArrayBuffer> {
  const tensors = new Map<string, FloatTensor>()
  for (const module of adapter.modules) {
    const { linear, r } = module
    tensors.set(factorA(linear.module), { shape: [linear.in, r], data: module.A })
    tensors.set(factorB(linear.module), { shape: [r, linear.out], data: foldScaling(module, adapter.name) })
  }
  return encodeSafetensors(tensors, {
    [ADAPTER_METADATA.schema]: ADAPTER_SCHEMA,
    [ADAPTER_METADATA.base]: baseDigest,
    [ADAPTER_METADATA.name]: adapter.name,
  })
}

/** s·Bᵀ: the one place where a routed adapter meets its scaling. The product is exact to double, rounded once to fp32. */
function foldScaling(module: AdapterModule, name: string): Float32Array {
  const folded = module.B.map((value) => value * module.scaling)
  if (firstNonFinite(folded) < 0) return folded
  throw inputError(
    'tensor-not-finite',
    `adapter "${name}": ${module.linear.module}.lora_B times its scaling ${module.scaling} overflows fp32; lora_alpha is absurd`,
  )
}
