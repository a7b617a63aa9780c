// rope_parameters, or rope_scaling of older files → how the rotary frequencies are scaled.
import type { Problems } from '../errors.ts'
import type { RopeScaling } from './decoder.ts'

/** `positions`: how far the table goes, where the scaling bounds it. */
export interface ReadScaling {
  readonly scaling?: RopeScaling
  readonly positions?: number
}

interface Bounds {
  readonly maxPositions: number
  readonly original: number | undefined
  readonly rotaryDim: number
}

/** Throws nothing: what cannot be honoured goes into `problems`, by name. */
export function readRopeScaling(
  rope: ReadonlyMap<string, unknown>,
  { maxPositions, original: outer, rotaryDim }: Bounds,
  where: string,
  problems: Problems,
): ReadScaling {
  const type = rope.get('rope_type') ?? rope.get('type') ?? 'default'
  const number = (key: string, otherwise?: number): number => {
    const value = rope.get(key) ?? otherwise
    if (typeof value === 'number' && Number.isFinite(value) && value > 0) return value
    problems.add('config-invalid', `${where}: ${key} of rope_type "${type}" must be a positive number; mend the config`)
    return 1
  }
  // Dynamic scaling begins beyond the positions that the model was trained on, and the table ends there.
  if (type === 'default' || type === 'dynamic') return {}
  if (type === 'linear') return { scaling: { type, factor: number('factor') } }
  if (type === 'llama3') {
    if (Number(rope.get('low_freq_factor')) >= Number(rope.get('high_freq_factor'))) {
      problems.add('config-invalid', `${where}: low_freq_factor must be below high_freq_factor; mend the config`)
    }
    return {
      scaling: {
        type,
        factor: number('factor'),
        low: number('low_freq_factor'),
        high: number('high_freq_factor'),
        original: number('original_max_position_embeddings'),
      },
    }
  }
  if (type === 'yarn') {
    const original = number('original_max_position_embeddings', maxPositions)
    const factor = number('factor')
    const mscale = (m: number) => (factor <= 1 ? 1 : 0.1 * m * Math.log(factor) + 1)
    const [m, all] = [rope.get('mscale'), rope.get('mscale_all_dim')]
    const own = typeof m === 'number' && typeof all === 'number' && m && all ? mscale(m) / mscale(all) : mscale(1)
    return {
      scaling: {
        type,
        factor,
        betaFast: number('beta_fast', 32),
        betaSlow: number('beta_slow', 1),
        original,
        truncate: rope.get('truncate') !== false,
        attentionFactor: number('attention_factor', own),
      },
    }
  }
  if (type === 'longrope') {
    const original = number('original_max_position_embeddings', outer ?? maxPositions)
    const divisors = rope.get('short_factor')
    if (!Array.isArray(divisors) || divisors.length !== rotaryDim / 2 || !divisors.every((d) => d > 0)) {
      problems.add(
        'config-invalid',
        `${where}: short_factor must be ${rotaryDim / 2} positive numbers; mend the config`,
      )
      return {}
    }
    const factor = maxPositions / original
    const own = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original))
    // The long factors would change keys that are in the cache already; the table ends where they would begin.
    return {
      scaling: { type: 'divided', divisors, attentionFactor: number('attention_factor', own) },
      positions: Math.min(original, maxPositions),
    }
  }
  problems.add(
    'config-unsupported',
    `${where}: rope_type is ${JSON.stringify(type)?.slice(0, 100)}; "default", "linear", "dynamic", "llama3", "yarn" and "longrope" are supported`,
  )
  return {}
}
