// The one memory of a merge, laid out once: a few slots for blocks in flight, and room for the factors of two tensors.
import { assert, inputError } from '../errors.ts'
import { ELEMENT_BYTES } from '../safetensors/decode.ts'
import type { FloatDtype } from '../safetensors/dtypes.ts'
import { assembleModule } from './assembler.ts'
import { leftBytes, packLeft, packRight, rightBytes } from './factors.ts'
import { mergeFunction, RIGHT_BYTES, STEP_COLUMNS, STEP_ROWS } from './kernel-code.ts'
import { type Lanes, type OpenLanes, PAGE_BYTES, type Transfer } from './matrix.ts'
import type { TensorPlan } from './plan.ts'

/**
 * Blocks are large against the cost of a read, a message and a write, and small against the caches. The smallest keep
 * the merge of a small base small; with the largest those costs are a few hundredths of the whole.
 */
const MIN_BLOCK_BYTES = 512 * 1024
export const MAX_BLOCK_BYTES = 2 * 1024 * 1024
/** So many blocks keep all lanes busy from the first to the last. */
const BLOCKS_OF_A_BASE = 1024
/** Of a lane, one block is computed while one is read and one is written. */
const SLOTS_PER_LANE = 2
const SLOTS_OF_IO = 2
/** Part of `right` that stays in the first-level cache while the rows go by. */
const TILE_BYTES = 16 * 1024
/** Addresses of the kernel are 32-bit, and the last page stays free so that no sum of two wraps. */
const MAX_PAGES = 65_535

/** A block's place in the memory; `source` and `target` hold as many bytes each. */
export interface Slot {
  readonly source: number
  readonly target: number
  readonly left: number
}

/** Rows of one tensor that the kernel takes at once. */
export interface RowBlock {
  readonly start: number
  readonly count: number
}

/** The kernel can take it: at least one whole step each way. */
export function fitsKernel({ rows, columns }: TensorPlan, dtype: FloatDtype): boolean {
  return rows >= STEP_ROWS && columns >= STEP_COLUMNS[dtype]
}

/** The rows of a tensor in blocks that the kernel takes: of at least `STEP_ROWS` rows each. */
function rowBlocks(plan: TensorPlan, dtype: FloatDtype, blockBytes: number): RowBlock[] {
  const step = blockRows(plan, dtype, blockBytes)
  const count = Math.max(1, Math.floor(plan.rows / step) + (plan.rows % step < STEP_ROWS ? 0 : 1))
  return Array.from({ length: count }, (_, index) => {
    const start = index * step
    return { start, count: (index === count - 1 ? plan.rows : start + step) - start }
  })
}

function blockRows(plan: TensorPlan, dtype: FloatDtype, blockBytes: number): number {
  const bySource = blockBytes / (plan.columns * ELEMENT_BYTES[dtype])
  const byLeft = (blockBytes * STEP_ROWS) / leftBytes(plan, STEP_ROWS, dtype)
  const steps = Math.min(bySource, byLeft, plan.rows + STEP_ROWS) / STEP_ROWS
  return Math.max(1, Math.floor(steps)) * STEP_ROWS
}

/** How a block's bytes come into the slot and leave it: both by the caller, or both by the lane. */
export type BlockMoves = { readonly ready: Promise<void> } | { readonly read: Transfer; readonly write: Transfer }

export type AddBlock = (slot: Slot, block: RowBlock, moves: BlockMoves) => Promise<number>

export class Workspace {
  readonly slots: readonly Slot[]
  /** What a block is made of; a slot holds at least as much. */
  readonly blockBytes: number
  readonly #lanes: Lanes
  readonly #rights: readonly { readonly at: number; done: Promise<unknown> }[]
  #turn = 0

  private constructor(lanes: Lanes, sizes: Sizes, slots: number, blockBytes: number) {
    this.#lanes = lanes
    this.blockBytes = blockBytes
    const each = 2 * sizes.block + sizes.left
    this.slots = Array.from({ length: slots }, (_, index) => {
      const source = index * each
      return { source, target: source + sizes.block, left: source + 2 * sizes.block }
    })
    this.#rights = [0, 1].map((index) => ({ at: slots * each + index * sizes.right, done: Promise.resolve() }))
  }

  /** `plans`: each with the type that its sums are taken for. `totalBytes`: of the base. */
  static async open(
    plans: readonly { readonly plan: TensorPlan; readonly dtype: FloatDtype }[],
    totalBytes: number,
    openLanes: OpenLanes,
  ): Promise<Workspace> {
    const share = Math.ceil(totalBytes / BLOCKS_OF_A_BASE / PAGE_BYTES) * PAGE_BYTES
    const blockBytes = Math.min(MAX_BLOCK_BYTES, Math.max(MIN_BLOCK_BYTES, share))
    const sizes = sizesOf(plans, blockBytes)
    const slots = SLOTS_PER_LANE * openLanes.lanes + SLOTS_OF_IO
    const pages = Math.ceil((slots * (2 * sizes.block + sizes.left) + 2 * sizes.right) / PAGE_BYTES)
    if (pages > MAX_PAGES) {
      throw inputError(
        'adapter-rank',
        `the ranks of the adapters add up to too much: the factors of one tensor take ${sizes.right} bytes; merge fewer at once`,
      )
    }
    const functions = (['F32', 'F16', 'BF16'] as const).map(mergeFunction)
    const assemble = (shared: boolean) =>
      assembleModule(functions, { shared, initialPages: pages, maximumPages: pages })
    return new Workspace(await openLanes.open(assemble, pages), sizes, slots, blockBytes)
  }

  rowBlocks(plan: TensorPlan, dtype: FloatDtype): RowBlock[] {
    return rowBlocks(plan, dtype, this.blockBytes)
  }

  bytes(at: number, length: number): Uint8Array {
    return new Uint8Array(this.#lanes.buffer, at, length)
  }

  floats(at: number, length: number): Float32Array {
    return new Float32Array(this.#lanes.buffer, at, length)
  }

  /**
   * Loads a tensor's factors. The result adds them to the block in a slot's `source`, once it is there, and leaves the
   * sums in its `target`; it resolves to the largest absolute value before rounding, as bits.
   */
  async load(plan: TensorPlan, dtype: FloatDtype): Promise<AddBlock> {
    this.#turn += 1
    const right = this.#rights[this.#turn % 2]
    assert(right !== undefined, 'there are two places for factors')
    await right.done
    const { columns, rank } = plan
    packRight(plan, dtype, this.#sums(dtype, right.at, rightBytes(plan, dtype)))
    const tile = Math.max(1, Math.floor(TILE_BYTES / (rank * RIGHT_BYTES)))
    const add = async (slot: Slot, { start, count }: RowBlock, moves: BlockMoves): Promise<number> => {
      if ('ready' in moves) await moves.ready
      packLeft(plan, start, count, this.#sums(dtype, slot.left, leftBytes(plan, count, dtype)))
      const args = [slot.source, slot.target, slot.left, right.at, count, columns, rank, tile]
      if ('ready' in moves) return this.#lanes.run(dtype, args)
      assert(this.#lanes.stream !== undefined, 'blocks are moved by lanes that can')
      return this.#lanes.stream({ ...moves, call: { name: dtype, args } })
    }
    return (slot, block, moves) => {
      const result = add(slot, block, moves)
      // From here on, not only once it runs: the block may still be read when the next tensor but one wants the place.
      const before = right.done
      right.done = result.then(
        () => before,
        () => before,
      )
      return result
    }
  }

  /** From one file to another, through a slot; `undefined` where the lanes know no files. */
  get copy(): ((read: Transfer, write: Transfer) => Promise<number>) | undefined {
    const { stream } = this.#lanes
    return stream === undefined ? undefined : (read, write) => stream({ read, write })
  }

  close(): Promise<void> {
    return this.#lanes.close()
  }

  #sums(dtype: FloatDtype, at: number, length: number): Float32Array | Float64Array {
    const { buffer } = this.#lanes
    return dtype === 'F32' ? new Float64Array(buffer, at, length / 8) : new Float32Array(buffer, at, length / 4)
  }
}

interface Sizes {
  readonly block: number
  readonly left: number
  readonly right: number
}

/** Multiples of a cache line, so that no two lanes write to one. */
function sizesOf(
  plans: readonly { readonly plan: TensorPlan; readonly dtype: FloatDtype }[],
  blockBytes: number,
): Sizes {
  const sizes = { block: blockBytes, left: 0, right: 0 }
  for (const { plan, dtype } of plans) {
    // The last block of a tensor may have up to a step more.
    const rows = Math.min(plan.rows, blockRows(plan, dtype, blockBytes) + STEP_ROWS - 1)
    sizes.block = Math.max(sizes.block, rows * plan.columns * ELEMENT_BYTES[dtype])
    sizes.left = Math.max(sizes.left, leftBytes(plan, rows, dtype))
    sizes.right = Math.max(sizes.right, rightBytes(plan, dtype))
  }
  const lines = (bytes: number) => Math.ceil(bytes / 64) * 64
  return { block: lines(sizes.block), left: lines(sizes.left), right: lines(sizes.right) }
}
