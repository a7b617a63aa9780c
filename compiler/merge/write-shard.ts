// One file of the checkpoint, front to back: what does not change is copied byte for byte, the rest is made in blocks.
import type { OutFolder } from '../host.ts'
import type { StoredTensor } from '../safetensors/read.ts'
import { changeBlocks } from './change-blocks.ts'
import { headerWithHead } from './header.ts'
import { type LaneFiles, openLaneFiles, type Piece } from './lane-files.ts'
import { isPlain, mergeBlocks, mergeSpans } from './merge-blocks.ts'
import type { Shard } from './open-base.ts'
import type { TensorPlan } from './plan.ts'
import { readInto } from './read-into.ts'
import { BLOCK_BYTES, type Slot, SPAN_BYTES, type Workspace } from './workspace.ts'
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
  const files = openLaneFiles(shard.source, sink, workspace)
  let written = 0
  try {
    const blocks = shardBlocks(shard, plans, tied, workspace, files)
    await writeInOrder(blocks, workspace.slots, async (piece) => {
      const length = typeof piece === 'number' ? piece : piece.length
      if (typeof piece === 'number') files?.sink.wrote(length)
      else if (files !== undefined) await files.sink.writeAt(written, piece)
      else await sink.write(piece)
      written += length
      onBytes(length)
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
  files: LaneFiles | undefined,
): AsyncGenerator<Block<Slot, Piece>> {
  let copied = 0
  // How far the output is ahead of the base.
  let shift = 0
  if (tied !== undefined) {
    const header = await headerWithHead(shard, tied)
    copied = shard.dataStart
    shift = header.length - copied
    yield { fill: async () => header }
  }
  for (const tensor of shard.tensors) {
    const plan = plans.get(tensor.name)
    if (plan === undefined) continue
    yield* copyBlocks(shard, copied, tensor.offset, shift, workspace, files)
    if (!isPlain(plan)) yield* changeBlocks(plan, workspace)
    else if (files === undefined) yield* mergeBlocks(plan, workspace)
    else yield* mergeSpans(plan, workspace, shift, files)
    copied = tensor.offset + tensor.bytes
  }
  const { size } = shard.source
  yield* copyBlocks(shard, copied, size, shift, workspace, files)
  if (tied === undefined) return
  yield* copyBlocks(shard, tied.offset, tied.offset + tied.bytes, size + shift - tied.offset, workspace, files)
}

function* copyBlocks(
  { source }: Shard,
  from: number,
  to: number,
  shift: number,
  workspace: Workspace,
  files: LaneFiles | undefined,
): Generator<Block<Slot, Piece>> {
  const step = files === undefined ? BLOCK_BYTES : SPAN_BYTES
  for (let at = from; at < to; at += step) {
    const length = Math.min(step, to - at)
    yield {
      async fill(slot) {
        if (files === undefined) {
          const bytes = workspace.bytes(slot.source, length)
          await readInto(source, at, bytes)
          return bytes
        }
        await workspace.copy(
          pieces(at, length).map(([offset, bytes]) => ({
            read: files.read(offset, bytes, slot.source),
            write: files.write(offset + shift, bytes, slot.source),
          })),
        )
        return length
      },
    }
  }
}

function pieces(from: number, length: number): [offset: number, bytes: number][] {
  return Array.from({ length: Math.ceil(length / BLOCK_BYTES) }, (_, index) => {
    const done = index * BLOCK_BYTES
    return [from + done, Math.min(BLOCK_BYTES, length - done)]
  })
}
