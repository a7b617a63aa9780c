// Chooses how one tensor of one adapter is pruned.
import { pruneBothEnds } from './breadcrumbs.ts'
import { dropAtRandom } from './dare.ts'
import { dropByRank } from './della.ts'
import type { Part } from './input.ts'
import { pruneByMagnitude } from './magnitude-prune.ts'
import { METHODS, type MethodParts, type Recipe } from './options.ts'
import { stream } from './threefry.ts'

/** `values`: row-major with `columns` columns. What is random is drawn from the stream "module/adapter/tensor". */
export function prune(
  values: Float32Array,
  columns: number,
  tensor: 'lora_A' | 'lora_B' | 'delta',
  { adapter }: Part,
  module: string,
  recipe: Recipe,
): Float32Array {
  const { density = 1, epsilon = 0, gamma = 0, seed = 0, method } = recipe
  const about = `adapter "${adapter}": ${module}.${tensor}`
  const draw = stream(seed, `${module}/${adapter}/${tensor}`)
  const parts: MethodParts = METHODS[method]
  switch (parts.prune) {
    case 'magnitude':
      return pruneByMagnitude(values, density, about)
    case 'random':
      return dropAtRandom(values, density, draw)
    case 'della':
      return dropByRank(values, columns, density, epsilon, draw)
    case 'breadcrumbs':
      return pruneBothEnds(values, density, gamma, about)
    default:
      return values
  }
}
