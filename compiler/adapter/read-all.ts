// The adapters of one compile: names that are valid and unique, weights that the target can take, every folder checked.
import { compareCodePoints } from '../canonical-json.ts'
import type { Linear } from '../contract.ts'
import { Problems, quote } from '../errors.ts'
import { type Adapter, readAdapterFolder } from './read.ts'
import type { AdapterInput } from './read-changes.ts'

export type { AdapterInput } from './read-changes.ts'
export type WeightedAdapter = Adapter

/** Sorted by name. Throws one `InputError` with the problems of all adapters. */
export async function readAdapters(
  inputs: readonly AdapterInput[],
  target: 'routed' | 'merged',
  linears: readonly Linear[],
): Promise<WeightedAdapter[]> {
  const problems = new Problems()
  const adapters: WeightedAdapter[] = []
  const seen = new Set<string>()
  for (const { name, folder, weight = 1 } of inputs) {
    if (seen.has(name)) problems.add('adapter-name', `adapter ${quote(name)} is given twice; give each its own name`)
    seen.add(name)
    if (target === 'routed' && Number.isFinite(weight) && weight !== 0 && weight !== 1) {
      problems.add('adapter-weight', `adapter ${quote(name)}: the weight is ${weight}; weights are for target "merged"`)
    }
    const adapter = await problems.collect(() => readAdapterFolder(name, folder, linears, weight))
    if (adapter !== undefined) adapters.push(adapter)
  }
  problems.throwIfAny()
  return adapters.sort((a, b) => compareCodePoints(a.name, b.name))
}
