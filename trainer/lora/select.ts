// Which linears of a base get factors: target_modules, rank_pattern and alpha_pattern as PEFT reads them, and presets.
import type { AdapterConfig } from '../../compiler/adapter/config.ts'
import { ModulePatterns } from '../../compiler/adapter/patterns.ts'
import { Budget, BudgetError } from '../../compiler/adapter/regex/budget.ts'
import { resolveTargets, suffixesOf } from '../../compiler/adapter/targets.ts'
import { layoutOf } from '../../compiler/checkpoint/families/families.ts'
import { layerLinears } from '../../compiler/checkpoint/names.ts'
import type { Architecture } from '../../compiler/contract.ts'
import { inputError, Problems, quote } from '../../compiler/errors.ts'
import type { Init, LoraSpec } from './spec.ts'

export interface LoraOptions {
  readonly r: number
  readonly alpha: number
  /** Names, whole paths, one regex, or a preset: `all-linear`, `attention`, `mlp`. */
  readonly targetModules: readonly string[] | string
  readonly rankPattern: Readonly<Record<string, number>>
  readonly alphaPattern: Readonly<Record<string, number>>
  readonly useRslora: boolean
  readonly useDora: boolean
  readonly init: Init
  readonly dropout: number
}

/** PEFT takes any rank; beyond this one a pair of factors is larger than what it stands for in every base there is. */
const MAX_RANK = 8192
const PRESETS = ['attention', 'mlp'] as const

/** Throws `InputError` with every option that cannot be met. */
export function selectLora(architecture: Architecture, options: LoraOptions): LoraSpec {
  const problems = new Problems()
  const { r, alpha, rankPattern, alphaPattern, useRslora, useDora, init, dropout } = options
  for (const rank of [r, ...Object.values(rankPattern)]) {
    if (!Number.isInteger(rank) || rank < 1 || rank > MAX_RANK) {
      problems.add('train-option', `r is ${rank}; a rank is a whole number from 1 to ${MAX_RANK}`)
    }
  }
  for (const value of [alpha, ...Object.values(alphaPattern)]) {
    if (!Number.isFinite(value) || value <= 0) {
      problems.add('train-option', `lora_alpha is ${value}; give a number above 0, twice the rank is usual`)
    }
  }
  if (!(dropout >= 0 && dropout < 1)) {
    problems.add('train-option', `lora_dropout is ${dropout}; give a share from 0 to below 1`)
  }
  if (init === 'pissa' && (useDora || dropout > 0)) {
    const other = useDora ? 'use_dora' : 'lora_dropout'
    problems.add(
      'train-option',
      `init pissa does not go with ${other}: a converted adapter could not hold both; drop one`,
    )
  }
  const linears = layerLinears(architecture)
  try {
    const budget = new Budget()
    const covers = testOf(architecture, options, problems, budget)
    const patterns = (given: Readonly<Record<string, number>>, field: string) =>
      new ModulePatterns(new Map(Object.entries(given)), field, 'these options', problems, budget)
    const ranks = patterns(rankPattern, 'rank_pattern')
    const alphas = patterns(alphaPattern, 'alpha_pattern')
    const modules = linears.flatMap((linear) => {
      if (!covers(linear.module)) return []
      const rank = ranks.valueFor(linear.module, r)
      const scaling = alphas.valueFor(linear.module, alpha) / (useRslora ? Math.sqrt(rank) : rank)
      if (rank > Math.min(linear.in, linear.out)) {
        problems.add(
          'train-option',
          `${linear.module} is [${linear.out}, ${linear.in}] and its rank would be ${rank}; give one of at most ${Math.min(linear.in, linear.out)}, or a rank_pattern`,
        )
      }
      return [{ linear, r: rank, scaling }]
    })
    if (modules.length === 0) {
      problems.throwIfAny()
      const names = [...new Set(linears.flatMap(({ module }) => module.split('.').at(-1) ?? []))].join(', ')
      problems.add('train-option', `target_modules names no linear of the base, which has ${names}; or give all-linear`)
    }
    const trained = modules.map(({ linear }) => linear.module)
    if (trained.length > 0) {
      refuseUnused(ranks, Object.keys(rankPattern), 'rank_pattern', trained, problems)
      refuseUnused(alphas, Object.keys(alphaPattern), 'alpha_pattern', trained, problems)
    }
    problems.throwIfAny()
    return { modules, init, dora: useDora, dropout }
  } catch (error) {
    if (!(error instanceof BudgetError)) throw error
    throw inputError('train-option', `the patterns of target_modules take ${error.message}; write the names out`)
  }
}

/** PEFT passes over a key that no module has, and trains at another rank than was asked for. */
function refuseUnused(
  patterns: ModulePatterns,
  keys: readonly string[],
  field: string,
  trained: readonly string[],
  problems: Problems,
): void {
  const used = new Set(trained.map((module) => patterns.keyFor(module)))
  for (const key of keys) {
    if (used.has(key)) continue
    problems.add(
      'train-option',
      `${field} has the key ${quote(key)}, which decides for no linear that is trained; fix it or leave it out`,
    )
  }
}

function testOf(
  architecture: Architecture,
  { targetModules }: LoraOptions,
  problems: Problems,
  budget: Budget,
): (module: string) => boolean {
  const { qkv, o, mlp, down } = layoutOf(architecture)
  const preset = PRESETS.find((name) => name === targetModules)
  if (preset !== undefined) {
    const names = preset === 'attention' ? [...qkv, o] : [...mlp, down]
    return (module) => names.some((name) => module.endsWith(`.${name}`))
  }
  const targets = resolveTargets({ ...NOTHING, targetModules }, 'these options', problems, budget)
  if (targets.allLinear) return () => true
  const known = new Set(layerLinears(architecture).flatMap(({ module }) => suffixesOf(module)))
  for (const name of targets.names) {
    if (known.has(name)) continue
    problems.add('train-option', `target_modules names ${quote(name)}, which is no linear of the base's layers; fix it`)
  }
  return targets.covers ?? (() => false)
}

const NOTHING: AdapterConfig = {
  r: 1,
  loraAlpha: 1,
  useRslora: false,
  rankPattern: new Map(),
  alphaPattern: new Map(),
  targetModules: undefined,
  excludeModules: undefined,
  modulesToSave: [],
  layersToTransform: [],
  layersPattern: [],
  tokens: undefined,
  bias: 'none',
  loraBias: false,
  useDora: false,
  fanInFanOut: false,
}
