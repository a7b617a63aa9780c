// What the manifest says of a quantised base.
import type { Checkpoint } from '../checkpoint/read.ts'
import type { Quantisation } from '../contract.ts'
import type { KeepOptions, Method, QuantiseOptions, Storage } from './spec.ts'
import type { LayerError } from './stream.ts'

const STORED_AS: Readonly<Record<Method, Storage>> = { int4: 'int4', int8: 'int8', nf4: 'nf4', fp16: 'float16' }
const BITS = { int4: 4, int8: 8, nf4: 4, fp16: 16 } as const

/** `storage`: of every module that could be quantised. `layers`: of those that were. */
export function describeQuantisation(
  { method, rounding, block, grid, activations }: QuantiseOptions,
  storage: ReadonlyMap<string, Storage>,
  checkpoint: Checkpoint,
  layers: readonly LayerError[],
  calibration: string | undefined,
): Quantisation {
  const others = [...storage].filter(([, stored]) => stored !== STORED_AS[method])
  const kept = others.filter(([, stored]) => stored === 'float32')
  const keptWeights = kept.reduce((sum, [module]) => sum + countWeights(checkpoint, module), 0)
  const weights = layers.reduce((sum, layer) => sum + layer.weights, keptWeights)
  const bits = layers.reduce((sum, layer) => sum + 8 * layer.bytes, 32 * keptWeights)
  return {
    method,
    rounding,
    ...(calibration === undefined ? {} : { calibration }),
    bits: BITS[method],
    block,
    grid,
    ...(activations && { activations }),
    exceptions: Object.fromEntries(others) as Quantisation['exceptions'],
    // Four digits after the point: the bytes of a manifest must not hang on the last bit of a division.
    bitsPerWeight: Math.round((bits / weights) * 1e4) / 1e4,
  }
}

export function countWeights(checkpoint: Checkpoint, module: string): number {
  return checkpoint.tensors.get(`${module}.weight`)?.shape.reduce((product, size) => product * size, 1) ?? 0
}

/** What the manifest says, as options that give the same artifact again. */
export function optionsOf(quantisation: Quantisation): QuantiseOptions | KeepOptions {
  const { method, rounding, block, grid, activations, exceptions } = quantisation
  const stored = (as: Storage) => Object.keys(exceptions).filter((module) => exceptions[module] === as)
  // What is float16 for the shape of its rows comes out as that again.
  const floating = stored('float32')
  if (method === 'keep' || rounding === 'none') {
    return { method: 'keep', ...(activations && { activations }), keep: floating }
  }
  return { method, rounding, block, grid, ...(activations && { activations }), keep: floating, eight: stored('int8') }
}
