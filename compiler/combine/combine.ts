// Several adapters → one adapter, module by module.
import { inputError } from '../errors.ts'
import { type Combined, type Factors, requireFinite, type Truncation } from './combined.ts'
import { concatenate, shares } from './exact.ts'
import { type CombineInput, type Part, partsByModule } from './input.ts'
import { karcherCoefficients } from './karcher.ts'
import { notesOn } from './notes.ts'
import { combineDeltas } from './on-deltas.ts'
import { joinFactors, sumPruned } from './on-factors.ts'
import { type CombineOptions, MAX_RANK, METHODS, type MethodParts, type Recipe, resolveOptions } from './options.ts'
import { chooseRanks } from './ranks.ts'
import { slerpCoefficients } from './slerp.ts'
import { compress } from './svd.ts'

export interface ModuleReport {
  readonly module: string
  readonly rank: number
  /** Share of ‖D‖² that the rank kept of what the method asked for, D; 1 where no rank was cut. */
  readonly energyKept: number
  /** ‖D − B·A‖, from the singular values left out; the rounding of A and B to fp32 is not in it. */
  readonly frobeniusError: number
}

export interface CombineResult {
  /** By path, in code point order. The delta of each is B·A: the scaling is 1. */
  readonly modules: ReadonlyMap<string, Factors>
  /** The rank of most modules; `alpha` equals it, so that PEFT scales by 1. */
  readonly r: number
  readonly alpha: number
  /** Where another rank holds; as `rank_pattern` and `alpha_pattern`, in this order. */
  readonly rankPattern: ReadonlyMap<string, number>
  readonly report: readonly ModuleReport[]
  readonly total: { readonly energyKept: number; readonly frobeniusError: number }
  /** Where the numbers are not what a reader of the method's name would expect, in sentences. */
  readonly notes: readonly string[]
  readonly recipe: Recipe
}

/**
 * Combines the adapters; the order in which they come is irrelevant. A module that an adapter lacks counts as a delta
 * of 0. `onModule` is told after each module. Throws `InputError` for options and inputs that do not fit the method.
 */
export function combineModules(
  inputs: readonly CombineInput[],
  options: CombineOptions = {},
  onModule: (done: number, total: number) => void = () => {},
): CombineResult {
  const recipe = resolveOptions(options)
  const parts = partsByModule(inputs)
  checkCount(inputs, recipe)
  const whole = {
    adapters: inputs.length,
    // Smallest first: the sum must not depend on the caller's order.
    totalWeight: inputs
      .map(({ weight }) => weight)
      .sort((a, b) => a - b)
      .reduce((sum, weight) => sum + weight, 0),
    largestRank: Math.max(...[...parts.values()].flat().map(({ r }) => r)),
  }
  const modules = new Map<string, Factors>()
  const report: ModuleReport[] = []
  const all = { energy: 0, lost: 0 }
  for (const [module, ofModule] of parts) {
    const { factors, truncation } = combineModule(ofModule, recipe, { ...whole, module })
    requireFinite(factors, module)
    modules.set(module, factors)
    report.push({ module, rank: factors.r, ...fidelity(truncation) })
    all.energy += truncation?.energy ?? 0
    all.lost += truncation?.lost ?? 0
    onModule(modules.size, parts.size)
  }
  const ranks = chooseRanks(modules)
  return { modules, ...ranks, report, total: fidelity(all), notes: notesOn(recipe, inputs.length), recipe }
}

/** What a module's result depends on beside its own parts. */
interface Whole {
  readonly module: string
  readonly adapters: number
  readonly totalWeight: number
  /** Over all modules: the rank that PEFT gives every module of a new adapter. */
  readonly largestRank: number
}

function combineModule(
  parts: readonly [Part, ...Part[]],
  recipe: Recipe,
  { module, adapters, totalWeight, largestRank }: Whole,
): Combined {
  const { method, peftCompat } = recipe
  const { form, elect: voted }: MethodParts = METHODS[method]
  const elect = voted === true
  // PEFT turns every method into linear where one adapter is given.
  const asLinear =
    peftCompat !== false && (method === 'linear' || (adapters === 1 && method !== 'exact' && method !== 'cat'))
  if (asLinear) return joinFactors(parts, { method: 'linear', peftCompat }, false, module)
  const rank = recipe.rank ?? (peftCompat === false ? Math.max(...parts.map(({ r }) => r)) : largestRank)
  if (form === 'deltas') return combineDeltas(parts, recipe, rank, elect, module)
  if (form === 'factors') {
    return elect || peftCompat !== false ? joinFactors(parts, recipe, elect, module) : sumPruned(parts, recipe, module)
  }
  switch (method) {
    case 'svd':
      return compress(parts, peftCompat === '0.20' ? twice(parts) : shares(parts), rank)
    case 'slerp':
      return sumOrCompress(parts, slerpCoefficients(parts, totalWeight), recipe, module)
    case 'karcher':
      return sumOrCompress(parts, karcherCoefficients(parts, totalWeight, module), recipe, module)
    default:
      return sumOrCompress(parts, shares(parts), recipe, module)
  }
}

/** PEFT up to 0.20: wᵢ·sᵢ times a delta that holds sᵢ already. */
function twice(parts: readonly Part[]): number[] {
  return parts.map(({ weight, scaling }) => weight * scaling * scaling)
}

function sumOrCompress(
  parts: readonly [Part, ...Part[]],
  coefficients: number[],
  { rank }: Recipe,
  module: string,
): Combined {
  if (rank !== undefined) return compress(parts, coefficients, rank)
  const r = parts.reduce((sum, part) => sum + part.r, 0)
  if (r <= MAX_RANK) return { factors: concatenate(parts, coefficients) }
  throw inputError('adapter-rank', `${module}: the ranks add up to ${r}, more than ${MAX_RANK}; use svd with a rank`)
}

function checkCount(inputs: readonly CombineInput[], { method }: Recipe): void {
  if (method === 'slerp' && inputs.length !== 2) {
    throw inputError('adapter-option', `slerp is a path between exactly 2 adapters, not ${inputs.length}; use karcher`)
  }
  if (method !== 'slerp' && method !== 'karcher') return
  const negative = inputs.find(({ weight }) => weight < 0)
  if (negative === undefined) return
  throw inputError(
    'adapter-weight',
    `adapter "${negative.name}": the weight is ${negative.weight}; ${method} takes shares of the way, above 0; use exact`,
  )
}

function fidelity(truncation: Truncation | undefined): { energyKept: number; frobeniusError: number } {
  if (truncation === undefined || truncation.energy === 0) return { energyKept: 1, frobeniusError: 0 }
  return { energyKept: 1 - truncation.lost / truncation.energy, frobeniusError: Math.sqrt(truncation.lost) }
}
