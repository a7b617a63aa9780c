// The methods of combining, what each is made of, and which options each takes.
import { Problems, quote } from '../errors.ts'

/**
 * How a method treats a module.
 * `sum`: a weighted sum of whole deltas, kept as concatenated factors. `factors`: entry by entry on A and on B, as PEFT
 * does. `deltas`: entry by entry on the dense deltas, one module at a time, then a truncated SVD.
 */
type Form = 'sum' | 'factors' | 'deltas'

export interface MethodParts {
  readonly form: Form
  readonly prune?: 'magnitude' | 'random' | 'della' | 'breadcrumbs'
  /** Signs are elected before the mean (TIES); otherwise entries are summed. */
  readonly elect?: true
  /** PEFT's `combination_type` has it. */
  readonly inPeft?: true
}

export const METHODS = {
  exact: { form: 'sum' },
  cat: { form: 'sum', inPeft: true },
  svd: { form: 'sum', inPeft: true },
  linear: { form: 'sum', inPeft: true },
  slerp: { form: 'sum' },
  karcher: { form: 'sum' },
  magnitude_prune: { form: 'factors', prune: 'magnitude', inPeft: true },
  ties: { form: 'factors', prune: 'magnitude', elect: true, inPeft: true },
  dare_linear: { form: 'factors', prune: 'random', inPeft: true },
  dare_ties: { form: 'factors', prune: 'random', elect: true, inPeft: true },
  magnitude_prune_svd: { form: 'deltas', prune: 'magnitude', inPeft: true },
  ties_svd: { form: 'deltas', prune: 'magnitude', elect: true, inPeft: true },
  dare_linear_svd: { form: 'deltas', prune: 'random', inPeft: true },
  dare_ties_svd: { form: 'deltas', prune: 'random', elect: true, inPeft: true },
  della_linear: { form: 'deltas', prune: 'della' },
  della: { form: 'deltas', prune: 'della', elect: true },
  breadcrumbs: { form: 'deltas', prune: 'breadcrumbs' },
  breadcrumbs_ties: { form: 'deltas', prune: 'breadcrumbs', elect: true },
} as const satisfies Record<string, MethodParts>

export type CombineMethod = keyof typeof METHODS

export interface CombineOptions {
  /** Default `exact`. `cat` is PEFT's word for it. */
  readonly method?: CombineMethod
  /** Rank of the result, where the method has a choice; default the largest of the adapters' in the module. */
  readonly rank?: number
  /** Share of the entries that pruning keeps, in (0, 1]. */
  readonly density?: number
  /** della: the chance to be kept runs from density − epsilon to density + epsilon. Default 0.15, or less where that leaves (0, 1). */
  readonly epsilon?: number
  /** breadcrumbs: share of the entries, the largest, that are dropped as outliers. Default 0.01. */
  readonly gamma?: number
  /** Of what is drawn at random; a 32-bit number, default 0. */
  readonly seed?: number
  /** How TIES elects a sign: by the sum of the entries or by their number. Default `total`. */
  readonly majoritySign?: 'total' | 'frequency'
  /**
   * PEFT's own numbers where they differ from the algebra: `true` as PEFT 0.21 and later compute them, `'0.20'` as PEFT
   * up to 0.20 did, which applied the scaling twice in `svd` and `*_svd`.
   */
  readonly peftCompat?: boolean | '0.20'
}

/** The options with every default filled in: what the recipe records. */
export interface Recipe {
  readonly method: CombineMethod
  readonly peftCompat: boolean | '0.20'
  readonly rank?: number
  readonly density?: number
  readonly epsilon?: number
  readonly gamma?: number
  readonly seed?: number
  readonly majoritySign?: 'total' | 'frequency'
}

const DEFAULT_EPSILON = 0.15
const DEFAULT_GAMMA = 0.01
/** As in adapter_config.json: far above any rank that still is low. */
export const MAX_RANK = 65_536

/** Throws one `InputError` with every option that is wrong, or that the method does not take. */
export function resolveOptions(options: CombineOptions): Recipe {
  const problems = new Problems()
  const refuse = (message: string) => problems.add('adapter-option', message)
  const { method = 'exact', peftCompat = false } = options
  if (!Object.hasOwn(METHODS, method)) {
    refuse(`method ${quote(String(method))} is not known; choose one of ${Object.keys(METHODS).join(', ')}`)
    problems.throwIfAny()
  }
  const parts: MethodParts = METHODS[method]
  if (peftCompat !== false && method !== 'exact' && !parts.inPeft) {
    refuse(`PEFT has no ${method}, so peft-compat says nothing about it; leave it out`)
  }
  const takes: Readonly<Record<string, boolean>> = {
    rank: takesRank(method),
    density: parts.prune !== undefined,
    epsilon: parts.prune === 'della',
    gamma: parts.prune === 'breadcrumbs',
    seed: parts.prune === 'random' || parts.prune === 'della',
    majoritySign: parts.elect === true,
  }
  for (const [option, taken] of Object.entries(takes)) {
    if (taken || options[option as keyof CombineOptions] === undefined) continue
    const help = option === 'rank' ? 'its rank follows from the adapters; use svd to compress' : 'leave it out'
    refuse(`method ${method} takes no ${option}; ${help}`)
  }
  const { rank, seed = 0, majoritySign = 'total' } = options
  if (rank !== undefined && !(Number.isSafeInteger(rank) && rank >= 1 && rank <= MAX_RANK)) {
    refuse(`the rank is ${rank}; give a whole number from 1 to ${MAX_RANK}`)
  }
  if (!(Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32)) {
    refuse(`the seed is ${seed}; give a whole number from 0 to ${2 ** 32 - 1}`)
  }
  if (majoritySign !== 'total' && majoritySign !== 'frequency') {
    refuse(`the majority sign method is ${quote(String(majoritySign))}; choose total or frequency`)
  }
  const pruning = takes.density ? pruningOptions(parts, options, method, refuse) : {}
  problems.throwIfAny()
  return {
    method,
    peftCompat,
    ...(rank === undefined ? {} : { rank }),
    ...pruning,
    ...(takes.seed ? { seed } : {}),
    ...(takes.majoritySign ? { majoritySign } : {}),
  }
}

function takesRank(method: CombineMethod): boolean {
  return METHODS[method].form === 'deltas' || method === 'svd' || method === 'slerp' || method === 'karcher'
}

function pruningOptions(
  { prune }: MethodParts,
  options: CombineOptions,
  method: CombineMethod,
  refuse: (message: string) => void,
): { density: number; epsilon?: number; gamma?: number } {
  const { density } = options
  if (density === undefined || !(density > 0 && density <= 1)) {
    const found = density === undefined ? `method ${method} needs a density` : `the density is ${density}`
    refuse(`${found}; give the share of entries to keep, above 0 and at most 1`)
    return { density: 1 }
  }
  if (prune === 'della') {
    // Half of the way to the nearer end keeps every chance inside (0, 1).
    const { epsilon = Math.min(DEFAULT_EPSILON, density / 2, (1 - density) / 2) } = options
    if (density < 1 && !(epsilon >= 0 && density - epsilon > 0 && density + epsilon < 1)) {
      refuse(`epsilon is ${epsilon}; density ± epsilon must stay between 0 and 1, and the density is ${density}`)
    }
    return { density, epsilon }
  }
  if (prune === 'breadcrumbs') {
    const { gamma = DEFAULT_GAMMA } = options
    if (!(gamma >= 0 && gamma < 1)) refuse(`gamma is ${gamma}; give the share of outliers to drop, from 0 to below 1`)
    return { density, gamma }
  }
  return { density }
}
