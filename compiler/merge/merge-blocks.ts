// The common case, as fast as the file can be copied: low-rank deltas only, added by the kernel in the stored type.
import { ELEMENT_BYTES } from '../safetensors/decode.ts'
import { OVERFLOW_BITS } from './kernel-code.ts'
import type { LaneFiles } from './lane-files.ts'
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

/** Blocks that the caller writes. */
export async function* mergeBlocks(plan: TensorPlan, workspace: Workspace): AsyncGenerator<Block<Slot, Uint8Array>> {
  const { tensor, columns } = plan
  const rowBytes = columns * ELEMENT_BYTES[tensor.dtype]
  const merge = await workspace.load(plan, tensor.dtype)
  for (const block of workspace.rowBlocks(plan, tensor.dtype)) {
    const length = block.count * rowBytes
    yield {
      async fill(slot) {
        const stored = workspace.bytes(slot.source, length)
        const read = readInto(tensor.source, tensor.offset + block.start * rowBytes, stored)
        const largest = await merge.add(slot, block, read)
        if (isTooLarge(largest, plan)) throw notFinite(plan, stored)
        return workspace.bytes(slot.target, length)
      },
    }
  }
}

/** Spans that the lanes read and write. `shift`: how far the output is ahead of the base. */
export async function* mergeSpans(
  plan: TensorPlan,
  workspace: Workspace,
  shift: number,
  files: LaneFiles,
): AsyncGenerator<Block<Slot, number>> {
  const { tensor, columns } = plan
  const rowBytes = columns * ELEMENT_BYTES[tensor.dtype]
  const merge = await workspace.load(plan, tensor.dtype)
  for (const span of workspace.spans(plan, tensor.dtype)) {
    yield {
      async fill(slot) {
        const largest = await merge.stream(slot, span, ({ start, count }) => {
          const offset = tensor.offset + start * rowBytes
          return {
            read: files.read(offset, count * rowBytes, slot.source),
            write: files.write(offset + shift, count * rowBytes, slot.target),
          }
        })
        const bytes = span.count * rowBytes
        if (!isTooLarge(largest, plan)) return bytes
        throw notFinite(plan, await tensor.source.read(tensor.offset + span.start * rowBytes, bytes))
      },
    }
  }
}

function isTooLarge(largest: number, { tensor }: TensorPlan): boolean {
  return largest >>> 0 >= OVERFLOW_BITS[tensor.dtype]
}
