// Adapters → what is added to each linear.
import type { WeightedAdapter } from './adapter/read-all.ts'
import type { Delta } from './passes/merge-delta.ts'

/** Per module, in the order of the adapters' names. */
export function groupDeltas(adapters: readonly WeightedAdapter[]): Map<string, Delta[]> {
  const deltas = new Map<string, Delta[]>()
  for (const { name, weight, modules } of adapters) {
    for (const { linear, r, scaling, A, B } of modules) {
      const list = deltas.get(linear.module) ?? []
      deltas.set(linear.module, list)
      list.push({ adapter: name, r, scale: weight * scaling, A, B })
    }
  }
  return deltas
}
