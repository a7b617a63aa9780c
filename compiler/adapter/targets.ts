// Which modules the config says the adapter is on: PEFT's check_target_module_exists.
import { type Problems, quote } from '../errors.ts'
import type { AdapterConfig } from './config.ts'
import { tryCompile } from './patterns.ts'
import type { Budget } from './regex/budget.ts'
import { fullMatch, prefixMatch } from './regex/run.ts'

const ALL_LINEAR = 'all-linear'

type Test = (module: string) => boolean

export interface Targets {
  /** `undefined` where the config leaves it to the tensors. */
  readonly covers: Test | undefined
  /** "all-linear": every linear except the head. */
  readonly allLinear: boolean
  readonly excludes: Test
  /** Names of a list; each must name some module. */
  readonly names: ReadonlySet<string>
}

/** Reports patterns that cannot be run. The tests throw `BudgetError`. */
export function resolveTargets(config: AdapterConfig, about: string, problems: Problems, budget: Budget): Targets {
  const { targetModules } = config
  const allLinear = typeof targetModules === 'string' && targetModules.toLowerCase() === ALL_LINEAR
  const listed = typeof targetModules === 'string' ? [] : (targetModules ?? [])
  const excludes = exclusions(config, about, problems, budget)
  const names = new Set(listed)
  let covers: Test | undefined
  if (typeof targetModules === 'string') {
    const what = `target_modules is ${quote(targetModules)}`
    const program = allLinear ? undefined : tryCompile(targetModules, what, about, problems, budget)
    covers = program && ((module) => fullMatch(program, module, budget))
  } else if (targetModules !== undefined) covers = listTest(names, config, about, problems)
  return { covers: covers && ((module) => !excludes(module) && covers(module)), allLinear, excludes, names }
}

/** A name in full; or its end after a dot, then only in the layers that the config lists. */
function listTest(names: ReadonlySet<string>, config: AdapterConfig, about: string, problems: Problems): Test {
  const layers = new Set(config.layersToTransform)
  const inLayers = layers.size === 0 ? () => true : layerTest(layers, config.layersPattern, about, problems)
  return (module) => names.has(module) || (suffixesOf(module).some((name) => names.has(name)) && inLayers(module))
}

/**
 * PEFT finds the number with `.*?\.[^.]*\.(\d+)\.`, or with `(?:^|.*?\.)PATTERN\.(\d+)\.` for the first pattern that
 * matches: the first number that has two names, or the pattern, before it and something behind it.
 */
function layerTest(layers: ReadonlySet<number>, patterns: readonly string[], about: string, problems: Problems): Test {
  for (const pattern of patterns) {
    if (/^[\w.]+$/.test(pattern)) continue
    problems.add(
      'adapter-pattern',
      `${about}: layers_pattern has ${quote(pattern)}; only names such as "layers" or "h" are read, write one`,
    )
  }
  return (module) => {
    const index = layerIndex(module, patterns)
    return index !== undefined && layers.has(index)
  }
}

function layerIndex(module: string, patterns: readonly string[]): number | undefined {
  const parts = module.split('.')
  const isNumber = (at: number) => at < parts.length - 1 && /^\d+$/.test(parts[at] as string)
  const find = (fits: (at: number) => boolean) => parts.findIndex((_, at) => isNumber(at) && fits(at))
  if (patterns.length === 0)
    return numberAt(
      parts,
      find((at) => at >= 2),
    )
  for (const pattern of patterns) {
    const at = find((candidate) =>
      suffixesOf(parts.slice(0, candidate).join('.')).some((name) => fitsName(pattern, name)),
    )
    if (at >= 0) return numberAt(parts, at)
  }
  return undefined
}

function numberAt(parts: readonly string[], at: number): number | undefined {
  return at < 0 ? undefined : Number(parts[at])
}

/** The pattern is a regex of word characters and dots, so only its dots match more than themselves. */
function fitsName(pattern: string, name: string): boolean {
  return pattern.length === name.length && [...pattern].every((char, i) => char === '.' || char === name[i])
}

/** exclude_modules; and what is saved whole, which PEFT never gives an adapter. */
function exclusions(config: AdapterConfig, about: string, problems: Problems, budget: Budget): Test {
  const { excludeModules, modulesToSave } = config
  const tests: Test[] = modulesToSave.flatMap((name) => {
    const program = tryCompile(
      `(^|.*\\.)${name}($|\\..*)`,
      `modules_to_save has ${quote(name)}`,
      about,
      problems,
      budget,
    )
    return program === undefined ? [] : [(module: string) => prefixMatch(program, module, budget)]
  })
  if (typeof excludeModules === 'string') {
    const what = `exclude_modules is ${quote(excludeModules)}`
    const program = tryCompile(excludeModules, what, about, problems, budget)
    // An empty string excludes nothing.
    if (program !== undefined && excludeModules !== '') tests.push((module) => fullMatch(program, module, budget))
  } else if (excludeModules !== undefined) {
    const names = new Set(excludeModules)
    tests.push((module) => suffixesOf(module).some((name) => names.has(name)))
  }
  return (module) => tests.some((test) => test(module))
}

/** The path, and each end of it that begins after a dot. */
export function suffixesOf(module: string): string[] {
  const parts = module.split('.')
  return parts.map((_, index) => parts.slice(index).join('.'))
}
