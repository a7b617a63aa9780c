// target_modules against the tensors: an adapter that covers less than it claims would be the base, in part, unnoticed.
import type { Linear } from '../contract.ts'
import { type Problems, quote } from '../errors.ts'
import type { AdapterConfig } from './config.ts'

/** Both ways: what the config targets has tensors, and what has tensors is targeted. */
export function checkTargets(
  pairs: ReadonlyMap<string, unknown>,
  config: AdapterConfig,
  linears: readonly Linear[],
  about: string,
  problems: Problems,
): void {
  const { targetModules, allLinear } = config
  if (targetModules === undefined && !allLinear) return
  // Sets, because a hostile config can list as many targets as a hostile file lists tensors.
  const targets = new Set(targetModules)
  const names = new Set(linears.flatMap(({ module }) => namesOf(module)))
  for (const target of targets) {
    if (names.has(target)) continue
    problems.add(
      'adapter-target',
      `${about}: target_modules names ${quote(target)}, which is none of the linears of the base's layers; ` +
        'lm_head and embed_tokens are not supported yet',
    )
  }
  for (const { module } of linears) {
    const targeted = allLinear || namesOf(module).some((name) => targets.has(name))
    if (targeted === pairs.has(module)) continue
    problems.add(
      'adapter-target',
      targeted
        ? `${about}: target_modules covers ${module} but there are no tensors for it; the file is incomplete, re-export it`
        : `${about}: ${module} has tensors but target_modules does not name it; fix the config or re-export`,
    )
  }
}

/** PEFT's rule for a list of target_modules, a module's whole path or its end after a dot: all that names `module`. */
function namesOf(module: string): string[] {
  const parts = module.split('.')
  return parts.map((_, index) => parts.slice(index).join('.'))
}
