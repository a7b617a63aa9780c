// GGUF's tensors under the names of Hugging Face.
import { Problems, quote } from '../errors.ts'
import type { Alteration, Architecture } from './architectures/architecture.ts'
import type { GgufTensor } from './read.ts'

export interface NamedTensor {
  /** As in a Hugging Face checkpoint. */
  readonly name: string
  readonly stored: GgufTensor
  readonly altered: Alteration | undefined
}

/** Not weights: their meaning goes into config.json. */
export const ROPE_FACTORS = 'rope_freqs.weight'
export const LONGROPE_FACTORS = { short: 'rope_factors_short.weight', long: 'rope_factors_long.weight' } as const

const NO_WEIGHTS: readonly string[] = [ROPE_FACTORS, LONGROPE_FACTORS.short, LONGROPE_FACTORS.long]

/** In file order. Throws `InputError` that lists every tensor that has no place in the architecture. */
export function nameTensors(
  file: string,
  architecture: Architecture,
  tensors: ReadonlyMap<string, GgufTensor>,
): NamedTensor[] {
  const problems = new Problems()
  const named: NamedTensor[] = []
  for (const stored of tensors.values()) {
    if (NO_WEIGHTS.includes(stored.name)) continue
    const place = placeOf(architecture, stored.name)
    if (place === undefined) {
      problems.add(
        'tensor-unknown',
        `${file}: tensor ${quote(stored.name)} has no place in the architecture "${architecture.name}"`,
      )
    } else named.push({ ...place, stored })
  }
  problems.throwIfAny()
  return named
}

function placeOf(architecture: Architecture, name: string): Omit<NamedTensor, 'stored'> | undefined {
  const match = /^(?:blk\.(0|[1-9]\d{0,3})\.)?([a-z_]+)\.(weight|bias)$/.exec(name)
  if (match === null) return undefined
  const [, layer, part = '', kind = ''] = match
  const table = layer === undefined ? architecture.globals : architecture.layer
  const place = Object.hasOwn(table, part) ? table[part] : undefined
  if (place === undefined) return undefined
  const prefix = layer === undefined ? '' : `${architecture.layers}.${layer}.`
  // A bias has nothing to be transposed.
  const altered = place.altered === 'transposed' && kind === 'bias' ? undefined : place.altered
  return { name: `${prefix}${place.to}.${kind}`, altered }
}
