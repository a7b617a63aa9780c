// Rows of a tenant's registry → what its models lead to, and where they run.
import type {
  adapters,
  adapterTags,
  arms,
  backendAdapters,
  backends,
  bases,
  CompileParent,
  experiments,
  limits,
  models,
  prices,
} from '../database/schema.ts'
import { readLimits } from '../limits/limit.ts'
import { readPrices } from '../limits/price.ts'
import { adaptersIn, readAdapter } from './merged-adapters.ts'
import type { Backend, Experiment, Model, Registry } from './policy.ts'
import type { Target } from './resolve-grants.ts'

/** In the order in which `loadPolicy` asks for them. */
export type RegistryRows = readonly [
  models: readonly (typeof models.$inferSelect)[],
  adapters: readonly (typeof adapters.$inferSelect)[],
  tags: readonly (typeof adapterTags.$inferSelect)[],
  experiments: readonly (typeof experiments.$inferSelect)[],
  arms: readonly (typeof arms.$inferSelect)[],
  bases: readonly (typeof bases.$inferSelect)[],
  backends: readonly (typeof backends.$inferSelect)[],
  active: readonly Pick<typeof backendAdapters.$inferSelect, 'backendId' | 'digest' | 'upstream'>[],
  merges: readonly { tenantId: string; artifact: string | null; parents: readonly CompileParent[] }[],
  limits: readonly (typeof limits.$inferSelect)[],
  prices: readonly (typeof prices.$inferSelect)[],
]

export function readRegistry(
  tenant: { readonly id: string; readonly maxTokens: number },
  [
    modelRows,
    adapterRows,
    tagRows,
    experimentRows,
    armRows,
    baseRows,
    backendRows,
    activeRows,
    mergeRows,
    limitRows,
    priceRows,
  ]: RegistryRows,
): Registry {
  const enabledBases = new Set(baseRows.map((base) => base.digest))
  const tagsOf = Map.groupBy(tagRows, ({ adapterId }) => adapterId)
  const adapterById = new Map(
    adapterRows.map((row) => {
      const tags = (tagsOf.get(row.id) ?? []).map(({ tag }) => tag)
      return [row.id, readAdapter(row, tags, enabledBases)]
    }),
  )
  const madeOf = adaptersIn(tenant.id, mergeRows, adapterById)
  const readTarget = (row: { adapterId: string | null; baseDigest: string | null }): Target => {
    if (row.adapterId === null && row.baseDigest !== null) {
      const { baseDigest } = row
      return { kind: 'base', baseDigest, enabled: enabledBases.has(baseDigest), ...madeOf(baseDigest) }
    }
    const adapter = adapterById.get(row.adapterId ?? '')
    if (adapter === undefined) throw new Error('a model or arm row names no target')
    return { ...adapter, ...madeOf(adapter.baseDigest) }
  }
  const armsOf = Map.groupBy(armRows, ({ experimentId }) => experimentId)
  const experimentById = new Map(
    experimentRows.map((row): [string, Experiment] => {
      const { id, seed, bucketVersion, status, coverage, namespace, guardrails } = row
      const read = (armsOf.get(id) ?? []).map((arm) => ({
        id: arm.id,
        weight: arm.weight,
        target: readTarget(arm),
        shadow: arm.shadow,
        stopped: arm.stoppedAt !== null,
      }))
      const running = status === 'running'
      return [id, { id, seed, bucketVersion, running, coverage, namespace, guardrails, arms: read }]
    }),
  )
  const readModel = (row: (typeof modelRows)[number]): Model => {
    const { name, createdAt, autoRank } = row
    if (row.experimentId === null) {
      return { name, createdAt, autoRank, serves: { kind: 'target', target: readTarget(row) } }
    }
    const experiment = experimentById.get(row.experimentId)
    if (experiment === undefined) throw new Error('a model row names no experiment')
    return { name, createdAt, autoRank, serves: { kind: 'experiment', experiment } }
  }
  const activeOf = Map.groupBy(activeRows, ({ backendId }) => backendId)
  const byBase = Map.groupBy(
    backendRows.map(({ enabled, createdAt, mayLoad, ...row }): Backend => {
      const adapters = new Map((activeOf.get(row.id) ?? []).map(({ digest, upstream }) => [digest, upstream]))
      return { ...row, adapters }
    }),
    ({ baseDigest }) => baseDigest,
  )
  return {
    tenantId: tenant.id,
    maxTokens: tenant.maxTokens,
    models: new Map(modelRows.map((row) => [row.name, readModel(row)])),
    experiments: experimentById,
    backends: byBase,
    limits: readLimits(limitRows),
    prices: readPrices(priceRows),
  }
}
