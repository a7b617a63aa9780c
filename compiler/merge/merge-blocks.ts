// The common case, as fast as the file can be copied: low-rank deltas only, added by the kernel in the stored type.
import { ELEMENT_BYTES } from '../safetensors/decode.ts'
import { OVERFLOW_BITS } from './kernel-code.ts'
import type { LaneFiles, Piece } from './lane-files.ts'
import { notFinite } from './not-finite.ts'
import type { TensorPlan } from './plan.ts'
import { readInto } from './read-into.ts'
import { fitsKernel, type Slot, type Workspace } from './workspace.ts'
import type { Block } from './write-in-order.ts'

export function isPlain(plan: TensorPlan): boolean {
  return (
    plan.replacement === undefined &&
    plan.replacedRows === undefined &&
    plan.added.length === 0 &&
    plan.lowRank.every(({ change }) => change.magnitude === undefined) &&
    fitsKernel(plan, plan.tensor.dtype)
  )
}

/** `shift`: how far the output is ahead of the base. */
export async function* mergeBlocks(
  plan: TensorPlan,
  workspace: Workspace,
  shift: number,
  files: LaneFiles | undefined,
): AsyncGenerator<Block<Slot, Piece>> {
  const { tensor, columns } = plan
  const rowBytes = columns * ELEMENT_BYTES[tensor.dtype]
  const merge = await workspace.load(plan, tensor.dtype)
  for (const block of workspace.rowBlocks(plan, tensor.dtype)) {
    const length = block.count * rowBytes
    const offset = tensor.offset + block.start * rowBytes
    yield {
      async fill(slot) {
        const stored = workspace.bytes(slot.source, length)
        const moves =
          files === undefined
            ? { ready: readInto(tensor.source, offset, stored) }
            : {
                read: files.read(offset, length, slot.source),
                write: files.write(offset + shift, length, slot.target),
              }
        const largest = await merge(slot, block, moves)
        if (largest >>> 0 >= OVERFLOW_BITS[tensor.dtype]) throw notFinite(plan, stored)
        return files === undefined ? workspace.bytes(slot.target, length) : length
      },
    }
  }
}
