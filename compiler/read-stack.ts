// The adapters of a stack: as strict as routed ones, each with a weight that is folded into its file.
import { type AdapterInput, readAdapters, type WeightedAdapter } from './adapter/read-all.ts'
import type { Linear } from './contract.ts'
import { inputError, Problems, quote } from './errors.ts'

/** Sorted by name. Throws one `InputError` with the problems of all adapters, or where there is none. */
export async function readStack(
  inputs: readonly AdapterInput[],
  linears: readonly Linear[],
): Promise<WeightedAdapter[]> {
  if (inputs.length === 0) throw inputError('adapter-name', 'a stack needs at least one adapter; name one')
  const problems = new Problems()
  for (const { name, weight = 1 } of inputs) {
    if (Number.isFinite(weight) && weight !== 0) continue
    problems.add('adapter-weight', `adapter ${quote(name)}: the weight is ${weight}; give a finite one that is not 0`)
  }
  // What a slot of a bank cannot hold, a stack cannot either.
  const unweighted = inputs.map(({ name, folder }) => ({ name, folder }))
  const adapters = await problems.collect(() => readAdapters(unweighted, 'routed', linears))
  problems.throwIfAny()
  const weights = new Map(inputs.map(({ name, weight = 1 }) => [name, weight]))
  return (adapters ?? []).map((adapter) => ({ ...adapter, weight: weights.get(adapter.name) ?? 1 }))
}

/** With the weight in the scaling, so that both are folded into B in one rounding. */
export function weighted(adapter: WeightedAdapter): WeightedAdapter {
  const modules = adapter.modules.map((module) => ({ ...module, scaling: module.scaling * adapter.weight }))
  return { ...adapter, modules, weight: 1 }
}

/** Those that some adapter changes, in graph order: the others need no side path. */
export function stackedLinears(adapters: readonly WeightedAdapter[], linears: readonly Linear[]): Linear[] {
  const changed = new Set(adapters.flatMap(({ modules }) => modules.map(({ linear }) => linear.module)))
  return linears.filter(({ module }) => changed.has(module))
}
