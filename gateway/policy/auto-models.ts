// `auto`: the tenant's models in the order of their ranks; the first that the caller may use is his default.
import type { Model, Registry } from './policy.ts'

/** What a caller sends for it. A model that has this very name is that model. */
export const AUTO = 'auto'

/** The models that a name stands for, in the order in which they are tried; none where it stands for itself. */
export function autoModels({ models }: Registry, name: string): readonly Model[] {
  if (name !== AUTO || models.has(name)) return []
  const ranked = [...models.values()].filter((model) => typeof model.autoRank === 'number')
  return ranked.sort((a, b) => (a.autoRank ?? 0) - (b.autoRank ?? 0) || (a.name < b.name ? -1 : 1))
}
