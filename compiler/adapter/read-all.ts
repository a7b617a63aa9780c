// The adapters of one compile: names that are valid and unique, weights that the target can take, every folder checked.
import { compareCodePoints } from '../canonical-json.ts'
import { AdapterName, type Linear } from '../contract.ts'
import { Problems, quote } from '../errors.ts'
import type { Folder } from '../host.ts'
import { type Adapter, readAdapterFolder } from './read.ts'

export interface AdapterInput {
  readonly name: string
  readonly folder: Folder
  /** In a merge; 1 where absent. */
  readonly weight?: number
}

export interface WeightedAdapter extends Adapter {
  readonly weight: number
}

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
    checkName(name, problems)
    if (seen.has(name)) problems.add('adapter-name', `adapter ${quote(name)} is given twice; give each its own name`)
    seen.add(name)
    if (!Number.isFinite(weight) || weight === 0) {
      problems.add('adapter-weight', `adapter ${quote(name)}: the weight is ${weight}; give a finite one that is not 0`)
    } else if (target === 'routed' && weight !== 1) {
      problems.add('adapter-weight', `adapter ${quote(name)}: the weight is ${weight}; weights are for target "merged"`)
    }
    const adapter = await problems.collect(() => readAdapterFolder(name, folder, linears))
    if (adapter !== undefined) adapters.push({ ...adapter, weight })
  }
  problems.throwIfAny()
  return adapters.sort((a, b) => compareCodePoints(a.name, b.name))
}

export function checkName(name: string, problems: Problems): void {
  if (AdapterName.safeParse(name).success) return
  problems.add(
    'adapter-name',
    `adapter ${quote(name)}: a name has a–z, 0–9, ".", "_" and "-", at most 64, and begins with a letter or digit`,
  )
}
