// The one memory of a merge, laid out once: a few slots for blocks in flight, and room for the factors of a few tensors.
import { assert, inputError } from '../errors.ts'
import { ELEMENT_BYTES } from '../safetensors/decode.ts'
import type { FloatDtype } from '../safetensors/dtypes.ts'
import { assembleModule } from './assembler.ts'
import { leftBytes, packLeft, packRight, rightBytes } from './factors.ts'
import { LEFT_BYTES, mergeFunction, RIGHT_BYTES, STEP_COLUMNS, STEP_ROWS } from './kernel-code.ts'
import { type LaneStep, type Lanes, type OpenLanes, PAGE_BYTES, type Transfer } from './matrix.ts'
import type { TensorPlan } from './plan.ts'

/** Large against the cost of a read and a write; two of them, before and after, stay in a core's second-level cache. */
export const BLOCK_BYTES = 256 * 1024
/** What a lane that reads and writes by itself is told at once: large against the cost of a message. */
export const SPAN_BYTES = 2 * 1024 * 1024
/** Of a lane, one block is computed while one is read and one is written. */
const SLOTS_PER_LANE = 2
const SLOTS_OF_IO = 2
/** Tensors whose factors are held: small ones are one block each, and no lane may wait for the end of another's. */
const TENSORS = 4
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

/** So many rows in blocks that the kernel takes: of at least `STEP_ROWS` rows each. */
function rowBlocks(rows: number, step: number): RowBlock[] {
  const count = Math.max(1, Math.floor(rows / step) + (rows % step < STEP_ROWS ? 0 : 1))
  return Array.from({ length: count }, (_, index) => {
    const start = index * step
    return { start, count: (index === count - 1 ? rows : start + step) - start }
  })
}

function blockRows(plan: TensorPlan, dtype: FloatDtype, blockBytes: number): number {
  const bySource = blockBytes / (plan.columns * ELEMENT_BYTES[dtype])
  const byLeft = (blockBytes * STEP_ROWS) / leftBytes(plan, STEP_ROWS, dtype)
  const steps = Math.min(bySource, byLeft, plan.rows + STEP_ROWS) / STEP_ROWS
  return Math.max(1, Math.floor(steps)) * STEP_ROWS
}

/**
 * A tensor whose factors are in the memory. Both resolve to the largest absolute value before rounding, as bits of a
 * float.
 */
export interface LoadedTensor {
  /** Adds to the block in a slot's `source`, once `ready`, and leaves the sums in its `target`. */
  add(slot: Slot, block: RowBlock, ready: Promise<void>): Promise<number>
  /** The lane reads, adds and writes the span, block by block; `move`: whence and whither the rows of one go. */
  stream(slot: Slot, span: RowBlock, move: (block: RowBlock) => Moves): Promise<number>
}

interface Moves {
  readonly read: Transfer
  readonly write: Transfer
}

export class Workspace {
  readonly slots: readonly Slot[]
  readonly #lanes: Lanes
  readonly #rights: readonly { readonly at: number; done: Promise<unknown> }[]
  #turn = 0

  private constructor(lanes: Lanes, sizes: Sizes, slots: number) {
    this.#lanes = lanes
    const each = 2 * sizes.block + sizes.left
    this.slots = Array.from({ length: slots }, (_, index) => {
      const source = index * each
      return { source, target: source + sizes.block, left: source + 2 * sizes.block }
    })
    this.#rights = Array.from({ length: TENSORS }, (_, index) => {
      return { at: slots * each + index * sizes.right, done: Promise.resolve() }
    })
  }

  /** `plans`: each with the type that its sums are taken for. */
  static async open(
    plans: readonly { readonly plan: TensorPlan; readonly dtype: FloatDtype }[],
    openLanes: OpenLanes,
  ): Promise<Workspace> {
    const sizes = sizesOf(plans)
    const slots = SLOTS_PER_LANE * openLanes.lanes + SLOTS_OF_IO
    const pages = Math.ceil((slots * (2 * sizes.block + sizes.left) + TENSORS * sizes.right) / PAGE_BYTES)
    if (pages > MAX_PAGES) {
      throw inputError(
        'adapter-rank',
        `the ranks of the adapters add up to too much: the factors of one tensor take ${sizes.right} bytes; merge fewer at once`,
      )
    }
    // Only those that are called: to assemble and to compile one takes milliseconds.
    const functions = [...new Set(plans.map(({ dtype }) => dtype))].map(mergeFunction)
    const assemble = (shared: boolean) =>
      assembleModule(functions, { shared, initialPages: pages, maximumPages: pages })
    return new Workspace(await openLanes.open(assemble, pages), sizes, slots)
  }

  rowBlocks(plan: TensorPlan, dtype: FloatDtype): RowBlock[] {
    return rowBlocks(plan.rows, blockRows(plan, dtype, BLOCK_BYTES))
  }

  /** For `stream`. */
  spans(plan: TensorPlan, dtype: FloatDtype): RowBlock[] {
    return rowBlocks(plan.rows, blockRows(plan, dtype, SPAN_BYTES))
  }

  bytes(at: number, length: number): Uint8Array {
    return new Uint8Array(this.#lanes.buffer, at, length)
  }

  floats(at: number, length: number): Float32Array {
    return new Float32Array(this.#lanes.buffer, at, length)
  }

  /** Loads a tensor's factors. */
  async load(plan: TensorPlan, dtype: FloatDtype): Promise<LoadedTensor> {
    this.#turn += 1
    const right = this.#rights[this.#turn % TENSORS]
    assert(right !== undefined, 'there are places for factors')
    await right.done
    const { columns, rank } = plan
    packRight(plan, dtype, this.#sums(dtype, right.at, rightBytes(plan, dtype)))
    const tile = Math.max(1, Math.floor(TILE_BYTES / (rank * RIGHT_BYTES)))
    const sumBytes = LEFT_BYTES[dtype] / STEP_ROWS
    const pack = (slot: Slot, { start, count }: RowBlock) =>
      packLeft(plan, start, count, this.#sums(dtype, slot.left, leftBytes(plan, count, dtype)))
    const call = (slot: Slot, { start, count }: RowBlock) => {
      const left = slot.left + start * rank * sumBytes
      return { name: dtype, args: [slot.source, slot.target, left, right.at, count, columns, rank, tile] }
    }
    // From here on, not only once it runs: a block may still be read when a later tensor wants the place.
    const hold = (result: Promise<number>) => {
      const before = right.done
      right.done = result.then(
        () => before,
        () => before,
      )
      return result
    }
    const add = async (slot: Slot, block: RowBlock, ready: Promise<void>) => {
      await ready
      pack(slot, block)
      const { name, args } = call(slot, { start: 0, count: block.count })
      return this.#lanes.run(name, args)
    }
    const stream = async (slot: Slot, span: RowBlock, move: (block: RowBlock) => Moves) => {
      pack(slot, span)
      const blocks = rowBlocks(span.count, blockRows(plan, dtype, BLOCK_BYTES))
      return this.#stream(
        blocks.map((block) => {
          const { start, count } = block
          return { ...move({ start: span.start + start, count }), call: call(slot, block) }
        }),
      )
    }
    return {
      add: (slot, block, ready) => hold(add(slot, block, ready)),
      stream: (slot, span, move) => hold(stream(slot, span, move)),
    }
  }

  /** Whether the lanes can `stream` and `copy`. */
  get streams(): boolean {
    return this.#lanes.stream !== undefined
  }

  /** From one file to another. */
  async copy(moves: readonly Moves[]): Promise<void> {
    await this.#stream(moves)
  }

  #stream(steps: readonly LaneStep[]): Promise<number> {
    assert(this.#lanes.stream !== undefined, 'files are moved by lanes that can')
    return this.#lanes.stream(steps)
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
function sizesOf(plans: readonly { readonly plan: TensorPlan; readonly dtype: FloatDtype }[]): Sizes {
  const sizes = { block: BLOCK_BYTES, left: 0, right: 0 }
  for (const { plan, dtype } of plans) {
    // The last block of a tensor may have up to a step more.
    const most = (bytes: number) => Math.min(plan.rows, blockRows(plan, dtype, bytes) + STEP_ROWS - 1)
    sizes.block = Math.max(sizes.block, most(BLOCK_BYTES) * plan.columns * ELEMENT_BYTES[dtype])
    sizes.left = Math.max(sizes.left, leftBytes(plan, most(SPAN_BYTES), dtype))
    sizes.right = Math.max(sizes.right, rightBytes(plan, dtype))
  }
  const lines = (bytes: number) => Math.ceil(bytes / 64) * 64
  return { block: lines(sizes.block), left: lines(sizes.left), right: lines(sizes.right) }
}
