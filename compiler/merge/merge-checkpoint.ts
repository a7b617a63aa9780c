// base + changes of any number of adapters → the same checkpoint with the changes written into its weights.
import type { AdapterChanges } from '../adapter/change.ts'
import { HEAD } from '../checkpoint/decoder.ts'
import type { OutFolder } from '../host.ts'
import { SUM_DTYPE } from './change-blocks.ts'
import { type CopiedFiles, copyFiles } from './copy-files.ts'
import type { OpenLanes } from './matrix.ts'
import { isPlain } from './merge-blocks.ts'
import type { Base } from './open-base.ts'
import { planMerge, type TensorPlan } from './plan.ts'
import { findTied, untieConfig, untieIndex } from './untie.ts'
import { Workspace } from './workspace.ts'
import { writeShard } from './write-shard.ts'

export interface MergeProgress {
  readonly stage: string
  readonly doneBytes: number
  readonly totalBytes: number
}

export interface MergeReport extends CopiedFiles {
  /** Of the weights. */
  readonly bytes: number
  readonly tensors: number
  /** Names of the tensors that were written anew; every other one is the base's, byte for byte. */
  readonly changed: readonly string[]
  /** The head that the output stores although the base's was its embedding. */
  readonly untied: string | undefined
}

/**
 * Writes every file of the merged checkpoint into `out`, which the caller makes visible only after this has resolved:
 * the weights in the same files, order and types, with the same metadata, and `files`, other names in the base's
 * folder, byte for byte. Throws `InputError`: before the first byte for what does not fit, while writing where a sum is
 * not finite. The bytes depend neither on the order of the adapters nor on the number of lanes. Memory: a few blocks,
 * the adapters' own factors, and those of four tensors once more.
 */
export async function mergeCheckpoint(
  base: Base,
  adapters: readonly AdapterChanges[],
  files: readonly string[],
  out: OutFolder,
  lanes: OpenLanes,
  onProgress: (progress: MergeProgress) => void = () => {},
): Promise<MergeReport> {
  const plans = planMerge(base, adapters)
  for (const [name, plan] of plans) if (!hasEffect(plan)) plans.delete(name)
  const tied = await findTied(
    base,
    new Set(plans.keys()),
    adapters.flatMap(({ untied }) => untied.filter((name) => plans.has(name))),
  )
  const total = base.shards.reduce((sum, { source }) => sum + source.size, tied?.bytes ?? 0)
  const workspace = await Workspace.open(
    [...plans.values()].map((plan) => ({ plan, dtype: isPlain(plan) ? plan.tensor.dtype : SUM_DTYPE })),
    lanes,
  )
  let done = 0
  try {
    for (const shard of base.shards) {
      await writeShard(shard, plans, tied?.source === shard.source ? tied : undefined, workspace, out, (bytes) => {
        done += bytes
        onProgress({ stage: 'merge weights', doneBytes: done, totalBytes: total })
      })
    }
  } finally {
    await workspace.close()
  }
  const home = base.shards.find(({ source }) => source === tied?.source)?.path
  const edits = new Map<string, (text: string, name: string) => string>()
  if (home !== undefined) {
    edits.set('config.json', untieConfig)
    if (base.index !== undefined) edits.set(base.index, (text) => untieIndex(text, home))
  }
  const copied = await copyFiles(base, files, edits, out)
  return {
    ...copied,
    bytes: done,
    tensors: base.tensors.size,
    changed: [...plans.keys()],
    untied: tied === undefined ? undefined : HEAD,
  }
}

/** A product with a factor of zeros adds nothing, and its tensor stays the base's to the bit. */
function hasEffect({ lowRank, added, replacement, replacedRows }: TensorPlan): boolean {
  if (added.length > 0 || replacement !== undefined || replacedRows !== undefined) return true
  return lowRank.some(
    ({ change: { A, B, magnitude } }) => magnitude !== undefined || (A.some(isNotZero) && B.some(isNotZero)),
  )
}

function isNotZero(value: number): boolean {
  return value !== 0
}
