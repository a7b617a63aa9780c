// One file of the checkpoint, front to back: what does not change is copied byte for byte, the rest is made in blocks.
import type { OutFolder } from '../host.ts'
import type { StoredTensor } from '../safetensors/read.ts'
import { changeBlocks } from './change-blocks.ts'
import { headerWithHead } from './header.ts'
import { isPlain, mergeBlocks } from './merge-blocks.ts'
import type { Shard } from './open-base.ts'
import type { TensorPlan } from './plan.ts'
import { readInto } from './read-into.ts'
import type { Slot, Workspace } from './workspace.ts'
import { type Block, writeInOrder } from './write-in-order.ts'

/** `tied`: a tensor of this shard whose bytes, as they were, also become the head's. */
export async function writeShard(
  shard: Shard,
  plans: ReadonlyMap<string, TensorPlan>,
  tied: StoredTensor | undefined,
  workspace: Workspace,
  out: OutFolder,
  onBytes: (bytes: number) => void,
): Promise<number> {
  const sink = await out.create(shard.path)
  let written = 0
  try {
    const blocks = shardBlocks(shard, plans, tied, workspace)
    await writeInOrder(blocks, workspace.slots, async (bytes) => {
      await sink.write(bytes)
      written += bytes.length
      onBytes(bytes.length)
    })
  } finally {
    await sink.close()
  }
  return written
}

async function* shardBlocks(
  shard: Shard,
  plans: ReadonlyMap<string, TensorPlan>,
  tied: StoredTensor | undefined,
  workspace: Workspace,
): AsyncGenerator<Block<Slot>> {
  let copied = tied === undefined ? 0 : shard.dataStart
  if (tied !== undefined) {
    const header = await headerWithHead(shard, tied)
    yield { fill: async () => header }
  }
  for (const tensor of shard.tensors) {
    const plan = plans.get(tensor.name)
    if (plan === undefined) continue
    yield* copyBlocks(shard, copied, tensor.offset, workspace)
    yield* isPlain(plan) ? mergeBlocks(plan, workspace) : changeBlocks(plan, workspace)
    copied = tensor.offset + tensor.bytes
  }
  yield* copyBlocks(shard, copied, shard.source.size, workspace)
  if (tied !== undefined) yield* copyBlocks(shard, tied.offset, tied.offset + tied.bytes, workspace)
}

function* copyBlocks({ source }: Shard, from: number, to: number, workspace: Workspace): Generator<Block<Slot>> {
  for (let at = from; at < to; at += workspace.blockBytes) {
    const length = Math.min(workspace.blockBytes, to - at)
    yield {
      async fill(slot) {
        const bytes = workspace.bytes(slot.source, length)
        await readInto(source, at, bytes)
        return bytes
      },
    }
  }
}
