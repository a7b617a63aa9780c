// The recommended ranks as `sidepath train` and PEFT take them: r, and a rank_pattern for the modules that differ.
import { compareCodePoints } from '../canonical-json.ts'
import { chooseRanks } from '../combine/ranks.ts'

export interface Recommendation {
  readonly r: number
  /** A module's last name where all of that name have one rank, its whole path where they differ. */
  readonly rank_pattern: Readonly<Record<string, number>>
  /** Modules that change nothing, and need no factors. */
  readonly leave_out: readonly string[]
}

export function recommend(
  modules: readonly { readonly module: string; readonly recommendedRank: number }[],
): Recommendation {
  const used = modules.filter(({ recommendedRank }) => recommendedRank > 0)
  const { r } = chooseRanks(new Map(used.map(({ module, recommendedRank }) => [module, { r: recommendedRank }])))
  const byName = Map.groupBy(used, ({ module }) => module.slice(module.lastIndexOf('.') + 1))
  const keys = [...byName].flatMap(([name, group]): [string, number][] => {
    const [first] = group
    if (group.every(({ recommendedRank }) => recommendedRank === first?.recommendedRank)) {
      return first === undefined || first.recommendedRank === r ? [] : [[name, first.recommendedRank]]
    }
    // Through the same choice, which knows where one path would catch another.
    const ranks = new Map(group.map(({ module, recommendedRank }) => [module, { r: recommendedRank }]))
    const { r: usual, rankPattern } = chooseRanks(ranks)
    if (usual === r) return [...rankPattern]
    return [...ranks].flatMap(([module, rank]) => (rank.r === r ? [] : [[module, rank.r] as [string, number]]))
  })
  keys.sort(([a], [b]) => b.length - a.length || compareCodePoints(a, b))
  return {
    r,
    rank_pattern: Object.fromEntries(keys),
    leave_out: modules.flatMap(({ module, recommendedRank }) => (recommendedRank > 0 ? [] : [module])),
  }
}
