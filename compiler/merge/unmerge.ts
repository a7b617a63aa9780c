// The inverse of a merge, as far as there is one: the same deltas with the opposite sign.
import type { AdapterChanges } from '../adapter/change.ts'
import { Problems, quote } from '../errors.ts'

/**
 * The adapters with negated weights. A sum that was rounded does not come back to the bit. Throws `InputError` for what
 * cannot be undone: replaced weights are gone, and DoRA's norms were those of the weights before.
 */
export function negate(adapters: readonly AdapterChanges[]): AdapterChanges[] {
  const problems = new Problems()
  for (const { name, changes } of adapters) {
    for (const change of changes) {
      const lost =
        change.kind === 'replace' || change.kind === 'rows'
          ? 'it replaced weights, and what was there before is gone'
          : change.kind === 'low-rank' && change.magnitude !== undefined
            ? 'DoRA rescaled weights by norms that they no longer have'
            : undefined
      if (lost === undefined) continue
      const about = `adapter ${quote(name)}: ${quote(change.tensor)} cannot be unmerged`
      problems.add('adapter-option', `${about}: ${lost}; use the base that it was merged into`)
    }
  }
  problems.throwIfAny()
  return adapters.map((adapter) => ({ ...adapter, weight: -adapter.weight }))
}
