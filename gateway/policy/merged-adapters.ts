// Which adapters are in the weights of a base: what the merges on record say, through merges of merges.

import type { adapters, CompileParent } from '../database/schema.ts'
import type { AdapterTarget } from './resolve-grants.ts'

type AdapterRow = typeof adapters.$inferSelect

interface MergeRow {
  readonly tenantId: string
  readonly artifact: string | null
  readonly parents: readonly CompileParent[]
}

export function readAdapter(row: AdapterRow, enabledBases: ReadonlySet<string>): AdapterTarget {
  const { tenantId, id, digest, baseDigest, disabled } = row
  return { kind: 'adapter', tenantId, id, digest, baseDigest, enabled: !disabled && enabledBases.has(baseDigest) }
}

/**
 * Every adapter once, by id. Of several merges with one result, all count. A result that this tenant did not make itself
 * keeps the parents of who did: they are another tenant's, so nobody here may use it. Merges form no circle, since the
 * digest of a result is taken over the digest of its base.
 */
export function adaptersIn(
  tenantId: string,
  merges: readonly MergeRow[],
  adapterRows: readonly AdapterRow[],
  enabledBases: ReadonlySet<string>,
): (baseDigest: string) => { readonly madeOf?: readonly AdapterTarget[] } {
  const known = new Map<string, readonly AdapterTarget[]>()
  const own = new Map(adapterRows.map((row) => [row.id, row]))
  const find = (baseDigest: string): readonly AdapterTarget[] => {
    const before = known.get(baseDigest)
    if (before !== undefined) return before
    const results = merges.filter(({ artifact }) => artifact === baseDigest)
    const ours = results.filter((merge) => merge.tenantId === tenantId)
    const found = new Map<string, AdapterTarget>()
    for (const merge of ours.length > 0 ? ours : results) {
      for (const parent of merge.parents) {
        const row = merge.tenantId === tenantId ? own.get(parent.adapter) : undefined
        const adapter = row === undefined ? absent(merge.tenantId, parent) : readAdapter(row, enabledBases)
        found.set(`${merge.tenantId}/${adapter.id}`, adapter)
        if (row !== undefined) {
          for (const ancestor of find(row.baseDigest)) found.set(`${ancestor.tenantId}/${ancestor.id}`, ancestor)
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
  return { kind: 'adapter', tenantId, id, digest, baseDigest: '', enabled: false }
}
