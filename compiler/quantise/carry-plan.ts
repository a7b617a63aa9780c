// `keep`: how each weight of a quantised GGUF is stored, which of them as it is in the file, and why another is not.
import type { Checkpoint } from '../checkpoint/read.ts'
import type { Quantisation } from '../contract.ts'
import { inputError } from '../errors.ts'
import { isGgufWeights } from '../gguf/weights-source.ts'
import { type Carrier, carrierOf } from './carry.ts'
import { countWeights } from './describe.ts'
import { chooseStorage, EMBEDDING_MODULE, type KeepOptions, type Storage } from './spec.ts'
import type { LayerError } from './stream.ts'

export interface KeptWeight {
  readonly storage: Storage
  /** Where the blocks are carried over; a float otherwise. */
  readonly carrier?: Carrier
  /** ggml's name of what the file has. */
  readonly format: string
  /** Where it is not carried over. */
  readonly why?: 'asked' | 'merged' | 'float' | 'format'
}

/**
 * By module. `tensors`: each module's tensor, by module, in the order of the graph. `changed`: modules that adapters are
 * merged into. Throws `InputError` where no tensor of the base has blocks.
 */
export function planCarry(
  { name, tensors }: Checkpoint,
  modules: ReadonlyMap<string, { readonly tensor: string; readonly in: number }>,
  { keep }: KeepOptions,
  changed: ReadonlySet<string>,
): Map<string, KeptWeight> {
  const requests = [...modules].map(([module, { in: inSize }]) => ({ module, in: inSize }))
  // The patterns of --keep, checked as they are for every other method.
  const asked = chooseStorage(
    { method: 'fp16', block: 32, grid: 'symmetric', rounding: 'rtn', keep, eight: [] },
    requests,
  )
  const planned = new Map<string, KeptWeight>()
  let blocks = 0
  for (const [module, { tensor }] of modules) {
    const stored = tensors.get(tensor)
    const source = stored?.source
    const quantised = source !== undefined && isGgufWeights(source) ? source.quantised(tensor) : undefined
    const format = quantised?.format ?? stored?.dtype ?? 'F32'
    const carrier = quantised && carrierOf(format, module === EMBEDDING_MODULE)
    if (quantised !== undefined) blocks += 1
    if (asked.get(module) === 'float32') planned.set(module, { storage: 'float32', format, why: 'asked' })
    else if (changed.has(module)) planned.set(module, { storage: 'float32', format, why: 'merged' })
    else if (carrier !== undefined) planned.set(module, { storage: carrier.storage, carrier, format })
    else if (quantised !== undefined) planned.set(module, { storage: 'float32', format, why: 'format' })
    else planned.set(module, { storage: format === 'F16' ? 'float16' : 'float32', format, why: 'float' })
  }
  if (blocks > 0) return planned
  throw inputError(
    'quantise-option',
    `${name} has no quantised weights that could be kept; --quantize keep is for a quantised GGUF, use int4 or int8`,
  )
}

/** As `describeQuantisation`, of a base whose blocks were kept. */
export function describeKept(
  { activations, modules: planned }: Pick<KeepOptions, 'activations'> & { modules: ReadonlyMap<string, KeptWeight> },
  checkpoint: Checkpoint,
  layers: readonly LayerError[],
): Quantisation {
  const weightsOf = (module: string) => countWeights(checkpoint, module)
  const of = (bits: 4 | 8) =>
    [...planned].reduce((sum, [module, { carrier }]) => sum + (carrier?.bits === bits ? weightsOf(module) : 0), 0)
  const bits = of(4) >= of(8) ? 4 : 8
  const usual: Storage = bits === 4 ? 'int4' : 'int8'
  const carried = [...planned].flatMap(([module, { carrier, format }]) => (carrier ? [[module, format] as const] : []))
  const first = [...planned.values()].find(
    ({ storage, carrier }) => carrier !== undefined && storage === usual,
  )?.carrier
  const floats = [...planned].filter(([, { storage }]) => storage === 'float32')
  const floatWeights = floats.reduce((sum, [module]) => sum + weightsOf(module), 0)
  const total = layers.reduce((sum, { weights }) => sum + weights, floatWeights)
  const totalBits = layers.reduce((sum, { bytes }) => sum + 8 * bytes, 32 * floatWeights)
  return {
    method: 'keep',
    rounding: 'none',
    bits,
    block: first?.block ?? 32,
    grid: first?.affine ? 'affine' : 'symmetric',
    exceptions: Object.fromEntries(
      [...planned].flatMap(([module, { storage }]) => (storage === usual ? [] : [[module, storage]])),
    ) as Quantisation['exceptions'],
    ...(activations && { activations }),
    carried: Object.fromEntries(carried),
    bitsPerWeight: Math.round((totalBits / total) * 1e4) / 1e4,
  }
}
