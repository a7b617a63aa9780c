// How adapter_config.json says the ranks of a result whose modules differ.
import { compareCodePoints } from '../canonical-json.ts'

export interface Ranks {
  readonly r: number
  readonly alpha: number
  readonly rankPattern: ReadonlyMap<string, number>
}

/**
 * `r` is the rank that most modules have, the larger of two as frequent. PEFT takes the first key of a pattern, in file
 * order, of which the module's path is the end after a dot; so longer keys come first, and a module of rank `r` that a
 * key would catch has a key of its own.
 */
export function chooseRanks(modules: ReadonlyMap<string, { readonly r: number }>): Ranks {
  const counts = new Map<number, number>()
  for (const { r } of modules.values()) counts.set(r, (counts.get(r) ?? 0) + 1)
  const [[r] = [0]] = [...counts].sort(([rankA, a], [rankB, b]) => b - a || rankB - rankA)
  const others = [...modules].filter(([, module]) => module.r !== r).map(([path]) => path)
  const keys = [...modules.keys()].filter((path) => others.some((key) => path === key || path.endsWith(`.${key}`)))
  keys.sort((a, b) => b.length - a.length || compareCodePoints(a, b))
  return { r, alpha: r, rankPattern: new Map(keys.map((key) => [key, modules.get(key)?.r ?? r])) }
}
