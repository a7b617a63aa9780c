// Which adapters are in the weights of a base: what the merges on record say, through merges of merges.

import type { adapters, CompileParent } from '../database/schema.ts'
import type { AdapterTarget } from './resolve-grants.ts'

type AdapterRow = typeof adapters.$inferSelect

interface MergeRow {
  readonly tenantId: string
  readonly artifact: string | null
  readonly parents: readonly CompileParent[]
}

export function readAdapter(
  row: AdapterRow,
  tags: readonly string[],
  enabledBases: ReadonlySet<string>,
): AdapterTarget {
  const { tenantId, id, digest, baseDigest, disabled } = row
  const enabled = !disabled && enabledBases.has(baseDigest)
  return { kind: 'adapter', tenantId, id, digest, baseDigest, enabled, tags }
}

/**
 * Every adapter once, by id. Of several merges with one result, all count. A result that this tenant did not make itself
 * keeps the parents of who did: they are another tenant's, so nobody here may use it. Merges form no circle, since the
 * digest of a result is taken over the digest of its base.
 */
export function adaptersIn(
  tenantId: string,
  merges: readonly MergeRow[],
  own: ReadonlyMap<string, AdapterTarget>,
): (baseDigest: string) => { readonly madeOf?: readonly AdapterTarget[] } {
  const known = new Map<string, readonly AdapterTarget[]>()
  const find = (baseDigest: string): readonly AdapterTarget[] => {
    const before = known.get(baseDigest)
    if (before !== undefined) return before
    const results = merges.filter(({ artifact }) => artifact === baseDigest)
    const ownResults = results.filter((merge) => merge.tenantId === tenantId)
    const found = new Map<string, AdapterTarget>()
    for (const merge of ownResults.length > 0 ? ownResults : results) {
      for (const parent of merge.parents) {
        const ours = merge.tenantId === tenantId ? own.get(parent.adapter) : undefined
        const adapter = ours ?? absent(merge.tenantId, parent)
        found.set(`${merge.tenantId}/${adapter.id}`, adapter)
        if (ours !== undefined) {
          for (const ancestor of find(ours.baseDigest)) found.set(`${ancestor.tenantId}/${ancestor.id}`, ancestor)
        }
      }
    }
    const list = [...found].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, adapter]) => adapter)
    known.set(baseDigest, list)
    return list
  }
  return (baseDigest) => {
    const madeOf = find(baseDigest)
    return madeOf.length === 0 ? {} : { madeOf }
  }
}

/** Not among this tenant's adapters: it may not be used, whatever else is said. */
function absent(tenantId: string, { adapter: id, digest }: CompileParent): AdapterTarget {
  return { kind: 'adapter', tenantId, id, digest, baseDigest: '', enabled: false, tags: [] }
}
