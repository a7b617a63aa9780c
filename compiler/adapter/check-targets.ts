// target_modules against the tensors: an adapter that covers less than it claims would be the base, in part, unnoticed.
import { quote } from '../errors.ts'
import type { Reading } from './reading.ts'
import { suffixesOf, type Targets } from './targets.ts'

/**
 * Both ways: what the config targets has tensors, and what has tensors is targeted. `adapted`: modules with LoRA, as the
 * adapter spells them. Throws `BudgetError`.
 */
export function checkTargets(adapted: ReadonlySet<string>, targets: Targets, reading: Reading): void {
  const { about, problems, isPartial } = reading
  const modules = modulesOf(reading)
  const names = new Set(targets.names.size === 0 ? [] : modules.flatMap(suffixesOf))
  for (const target of targets.names) {
    if (names.has(target)) continue
    problems.add(
      'adapter-target',
      `${about}: target_modules names ${quote(target)}, which is none of the ` +
        `${isPartial ? "linears of the base's layers" : 'modules of the base'}; fix the config or give another base`,
    )
  }
  const kinds = new Set(modules.filter((module) => adapted.has(module)).map(kindOf))
  for (const module of modules) {
    const isAdapted = adapted.has(module)
    if (isAdapted && targets.excludes(module)) {
      problems.add(
        'adapter-target',
        `${about}: ${module} has tensors but exclude_modules or modules_to_save leaves it out; fix the config or re-export`,
      )
      continue
    }
    // A checkpoint does not tell a linear from an embedding; that one layer lacks what the others have, it does.
    const isTargeted = targets.allLinear
      ? !targets.excludes(module) && (isAdapted || isPartial || kinds.has(kindOf(module)))
      : targets.covers?.(module)
    if (isTargeted === undefined || isTargeted === isAdapted) continue
    problems.add(
      'adapter-target',
      isTargeted
        ? `${about}: target_modules covers ${module} but there are no tensors for it; the file is incomplete, re-export it`
        : `${about}: ${module} has tensors but target_modules does not name it; fix the config or re-export`,
    )
  }
}

/** Modules of the base that could have an adapter, as the adapter spells them. */
function modulesOf({ base, location }: Reading): string[] {
  const found: string[] = []
  for (const [name, { shape }] of base) {
    if (!name.endsWith('.weight') || shape.length < 2) continue
    const module = location.toAdapter(name.slice(0, -'.weight'.length))
    if (module !== undefined) found.push(module)
  }
  return found
}

/** The path without its numbers. */
function kindOf(module: string): string {
  return module.replace(/(^|\.)\d+(?=\.|$)/g, '$1*')
}
