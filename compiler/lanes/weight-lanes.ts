// Weights read, widened, transposed and coded by the lanes of a merge (merge/matrix.ts): one memory, laid out once, with a
// slot for each span of weights in flight. What comes out does not depend on how many lanes there are: spans and steps are
// of constant size, and each number is computed by itself.
import { assert } from '../errors.ts'
import { assembleModule } from '../merge/assembler.ts'
import { type LaneStep, type Lanes, type OpenLanes, PAGE_BYTES } from '../merge/matrix.ts'
import { readInto } from '../merge/read-into.ts'
import { GROUP, NF4 } from '../quantise/nf4.ts'
import type { IntegerSpec } from '../quantise/spec.ts'
import { ELEMENT_BYTES } from '../safetensors/decode.ts'
import type { FloatDtype } from '../safetensors/dtypes.ts'
import type { FloatTensorSource } from '../safetensors/stream.ts'
import {
  HALVE,
  halveKernel,
  type Kernel,
  TRANSPOSE_COLUMNS,
  TRANSPOSE_ROWS,
  transposeKernel,
  transposeName,
  WIDEN_STEP,
  widenKernel,
  widenName,
} from './float-kernels.ts'
import { inFlight } from './in-flight.ts'
import { integerKernel, integerName } from './integer-kernels.ts'
import { NORMAL_FLOAT, normalFloatKernel, TABLE_BYTES } from './normal-float-kernel.ts'

/** What a lane is told at once: large against the cost of a message. */
const SPAN_WEIGHTS = 512 * 1024
/** What a lane reads and codes at once: as float32 it stays in the core's second-level cache. Whole groups of NF4. */
const STEP_WEIGHTS = 64 * 1024
const STEPS = SPAN_WEIGHTS / STEP_WEIGHTS
/** Of a lane, one span is worked on and one waits; some are being hashed and written. */
const SLOTS_PER_LANE = 2
const SLOTS_OF_IO = 2
/** Of 4.5 MB each. One thread hashes and writes all that comes out, which more lanes would not make faster. */
const MAX_SLOTS = 24
/** The smallest block: as many scales as there may be. */
const LEAST_BLOCK = 16
/** Two doubles, and room for a float32 for each block of a group. */
const SUMS_BYTES = 16 + 4 * GROUP
/** A stored matrix that is transposed is held whole; a larger one is turned without lanes. */
const MAX_TURNED_BYTES = 1024 * 1024 * 1024
/** First bits of an infinity. */
const INFINITY_BITS = 0x7f800000

/** How weights are coded. */
export type Coding =
  | { readonly how: 'integers'; readonly spec: IntegerSpec }
  | { readonly how: 'nf4'; readonly block: number }
  | { readonly how: 'halves' }

/** Part of a tensor, coded. The bytes are the caller's until the next span is asked for. */
export interface CodedSpan {
  readonly codes: Uint8Array
  readonly scales: Uint8Array
  readonly offsets: Uint8Array
  /** Of NF4 the magnitudes, in whole groups. */
  readonly zeroPoints: Uint8Array
  readonly squaredError: number
  readonly squaredNorm: number
  /** Largest |w|, as the bits of a float32. */
  readonly largest: number
}

export interface WeightLanesInput {
  readonly dtypes: ReadonlySet<FloatDtype>
  readonly codings: readonly Coding[]
  /** Bytes of the largest stored matrix that is to be transposed. */
  readonly turnedBytes: number
}

interface Slot {
  /** Stored bytes, or float32, of a whole span. */
  readonly source: number
  /** Float32 of a step. */
  readonly floats: number
  readonly out: number
  readonly scales: number
  readonly offsets: number
  readonly zeroPoints: number
  readonly sums: number
}

export class WeightLanes {
  readonly #lanes: Lanes
  readonly #slots: readonly Slot[]
  readonly #table: number
  readonly #turned: number
  readonly #turnedBytes: number

  private constructor(lanes: Lanes, slots: readonly Slot[], table: number, turned: number, turnedBytes: number) {
    this.#lanes = lanes
    this.#slots = slots
    this.#table = table
    this.#turned = turned
    this.#turnedBytes = turnedBytes
    new Float64Array(lanes.buffer, table, NF4.length).set(NF4)
  }

  static async open(openLanes: OpenLanes, { dtypes, codings, turnedBytes }: WeightLanesInput): Promise<WeightLanes> {
    const kernels = new Map<string, Kernel>()
    const add = (kernel: Kernel) => kernels.set(kernel.name, kernel)
    for (const dtype of dtypes) add(widenKernel(dtype))
    const turns = turnedBytes > 0 && turnedBytes <= MAX_TURNED_BYTES
    if (turns) for (const dtype of dtypes) add(transposeKernel(dtype))
    for (const coding of codings) {
      if (coding.how === 'integers') add(integerKernel(coding.spec))
      else add(coding.how === 'nf4' ? normalFloatKernel() : halveKernel())
    }
    let end = 0
    const place = (bytes: number): number => {
      const at = end
      // Whole cache lines, so that no two lanes write to one.
      end += Math.ceil(bytes / 64) * 64
      return at
    }
    const count = Math.min(MAX_SLOTS, SLOTS_PER_LANE * openLanes.lanes + SLOTS_OF_IO)
    const slots = Array.from({ length: count }, () => ({
      source: place(4 * SPAN_WEIGHTS),
      floats: place(4 * STEP_WEIGHTS),
      out: place(4 * SPAN_WEIGHTS),
      scales: place((2 * SPAN_WEIGHTS) / LEAST_BLOCK),
      offsets: place((2 * SPAN_WEIGHTS) / LEAST_BLOCK),
      zeroPoints: place(SPAN_WEIGHTS / LEAST_BLOCK),
      sums: place(STEPS * SUMS_BYTES),
    }))
    const table = place(TABLE_BYTES)
    const turned = place(turns ? turnedBytes : 0)
    // The last page stays free, so that no sum of two addresses wraps and a step may read past the last weight.
    const pages = Math.ceil(end / PAGE_BYTES) + 1
    const assemble = (shared: boolean) =>
      assembleModule([...kernels.values()], { shared, initialPages: pages, maximumPages: pages })
    return new WeightLanes(await openLanes.open(assemble, pages), slots, table, turned, turns ? turnedBytes : 0)
  }

  close(): Promise<void> {
    return this.#lanes.close()
  }

  /** Whether the other methods take the tensor: whole steps, of which all but the very smallest tensors consist. */
  takes(tensor: FloatTensorSource): boolean {
    return countOf(tensor) > 0 && countOf(tensor) % WIDEN_STEP === 0
  }

  /** Whether `transpose` takes the matrix. */
  turns({ shape, bytes }: FloatTensorSource): boolean {
    const [rows = 0, columns = 0] = shape
    return (
      bytes <= this.#turnedBytes &&
      rows >= TRANSPOSE_ROWS &&
      columns >= TRANSPOSE_COLUMNS &&
      rows * TRANSPOSE_COLUMNS <= SPAN_WEIGHTS
    )
  }

  /** The stored bytes, front to back, and whether all the floats in them are finite. */
  scan(tensor: FloatTensorSource): AsyncGenerator<{ readonly bytes: Uint8Array; readonly finite: boolean }> {
    return this.#spans(tensor, async (slot, first, count) => {
      const { stored, steps } = await this.#widen(tensor, slot, first, count, () => slot.floats)
      const largest = await this.#do(steps)
      return { bytes: this.#bytes(slot.source, stored), finite: largest < INFINITY_BITS }
    })
  }

  /** The whole tensor as float32, front to back; `start`: the first weight. */
  widen(
    tensor: FloatTensorSource,
  ): AsyncGenerator<{ readonly start: number; readonly values: Float32Array<ArrayBufferLike> }> {
    return this.#spans(tensor, async (slot, start, count) => {
      const { steps } = await this.#widen(tensor, slot, start, count, (step) => slot.out + 4 * STEP_WEIGHTS * step)
      await this.#do(steps)
      return { start, values: new Float32Array(this.#lanes.buffer, slot.out, count) }
    })
  }

  /** Wᵀ of a stored W [rows, columns] as blocks of whole rows of Wᵀ, the first row at `start`: float32 [n, rows]. */
  async *transpose(
    tensor: FloatTensorSource,
  ): AsyncGenerator<{ readonly start: number; readonly values: Float32Array<ArrayBufferLike> }> {
    assert(this.turns(tensor), `${tensor.name} is not turned by lanes`)
    const [rows = 0, columns = 0] = tensor.shape
    await this.#load(tensor, this.#turned)
    const step = Math.max(1, Math.floor(SPAN_WEIGHTS / rows / TRANSPOSE_COLUMNS)) * TRANSPOSE_COLUMNS
    const fills = Array.from({ length: Math.ceil(columns / step) }, (_, index) => async (slot: Slot) => {
      // The last one begins early enough to have a whole step.
      const start = index * step
      const count = Math.min(step, columns - start)
      const early = Math.max(0, TRANSPOSE_COLUMNS - count)
      const args = [this.#turned, slot.out, rows, columns, start - early, count + early]
      await this.#do([{ call: { name: transposeName(tensor.dtype), args } }])
      return { start, values: new Float32Array(this.#lanes.buffer, slot.out + 4 * early * rows, count * rows) }
    })
    yield* inFlight(fills, this.#slots)
  }

  /** Whole blocks, or any number of halves. */
  code(tensor: FloatTensorSource, coding: Coding): AsyncGenerator<CodedSpan> {
    return this.#spans(tensor, async (slot, first, count) => {
      const { steps: widening } = await this.#widen(tensor, slot, first, count, () => slot.floats)
      const steps = widening.flatMap((step, index) => [step, { call: this.#coding(slot, coding, index, count) }])
      const largest = await this.#do(steps)
      const sums = widening.map((_, index) => new Float64Array(this.#lanes.buffer, slot.sums + index * SUMS_BYTES, 2))
      const sum = (which: number) => sums.reduce((total, pair) => total + (pair[which] as number), 0)
      return { ...this.#parts(slot, coding, count), squaredError: sum(0), squaredNorm: sum(1), largest }
    })
  }

  #coding(slot: Slot, coding: Coding, step: number, weights: number) {
    const first = step * STEP_WEIGHTS
    const count = Math.min(STEP_WEIGHTS, weights - first)
    const sums = slot.sums + step * SUMS_BYTES
    if (coding.how === 'halves') return { name: HALVE, args: [slot.floats, slot.out + 2 * first, sums, count] }
    if (coding.how === 'nf4') {
      const { block } = coding
      const magnitudes = slot.zeroPoints + first / block
      const scales = slot.scales + (4 * first) / block / GROUP
      const args = [slot.floats, slot.out + first / 2, magnitudes, scales, sums, this.#table, count / block, block]
      return { name: NORMAL_FLOAT, args }
    }
    const { bits, block } = coding.spec
    const before = first / block
    return {
      name: integerName(coding.spec),
      args: [
        ...[slot.floats, slot.out + (first * bits) / 8, slot.scales + 2 * before, slot.offsets + 2 * before],
        ...[slot.zeroPoints + before, sums, count / block, block],
      ],
    }
  }

  #parts(slot: Slot, coding: Coding, count: number) {
    const none = new Uint8Array(0)
    if (coding.how === 'halves') {
      return { codes: this.#bytes(slot.out, 2 * count), scales: none, offsets: none, zeroPoints: none }
    }
    if (coding.how === 'nf4') {
      const blocks = count / coding.block
      const groups = Math.ceil(blocks / GROUP)
      const zeroPoints = this.#bytes(slot.zeroPoints, groups * GROUP)
      zeroPoints.fill(0, blocks)
      return {
        codes: this.#bytes(slot.out, count / 2),
        scales: this.#bytes(slot.scales, 4 * groups),
        offsets: none,
        zeroPoints,
      }
    }
    const { bits, block, grid } = coding.spec
    const blocks = count / block
    return {
      codes: this.#bytes(slot.out, (count * bits) / 8),
      scales: this.#bytes(slot.scales, 2 * blocks),
      offsets: grid === 'affine' ? this.#bytes(slot.offsets, 2 * blocks) : none,
      zeroPoints: grid === 'asymmetric' ? this.#bytes(slot.zeroPoints, blocks) : none,
    }
  }

  #spans<Piece>(
    tensor: FloatTensorSource,
    fill: (slot: Slot, first: number, count: number) => Promise<Piece>,
  ): AsyncGenerator<Piece> {
    assert(this.takes(tensor), `${tensor.name} is no whole number of steps`)
    const weights = countOf(tensor)
    const fills = Array.from({ length: Math.ceil(weights / SPAN_WEIGHTS) }, (_, index) => (slot: Slot) => {
      const first = index * SPAN_WEIGHTS
      return fill(slot, first, Math.min(SPAN_WEIGHTS, weights - first))
    })
    return inFlight(fills, this.#slots)
  }

  /** The steps that leave weights `first` … as float32 where `target` says for each; the stored ones are read by then. */
  async #widen(
    { source, offset, dtype }: FloatTensorSource,
    slot: Slot,
    first: number,
    count: number,
    target: (step: number) => number,
  ): Promise<{ readonly stored: number; readonly steps: LaneStep[] }> {
    const size = ELEMENT_BYTES[dtype]
    const file = this.#lanes.stream === undefined ? undefined : source.laneFile
    const stored = count * size
    const start = offset + first * size
    if (file === undefined) await readInto(source, start, this.#bytes(slot.source, stored))
    const steps = Array.from({ length: Math.ceil(count / STEP_WEIGHTS) }, (_, step): LaneStep => {
      const before = step * STEP_WEIGHTS
      const weights = Math.min(STEP_WEIGHTS, count - before)
      const address = slot.source + before * size
      const read = { offset: start + before * size, address, length: weights * size }
      return {
        ...(file === undefined ? {} : { read: { file, ...read } }),
        call: { name: widenName(dtype), args: [address, target(step), weights] },
      }
    })
    return { stored, steps }
  }

  /** The stored tensor, whole, at an address. */
  async #load({ source, offset, bytes }: FloatTensorSource, address: number): Promise<void> {
    const file = this.#lanes.stream === undefined ? undefined : source.laneFile
    const step = 4 * STEP_WEIGHTS
    const pieces = Array.from({ length: Math.ceil(bytes / step) }, (_, index) => {
      const at = index * step
      return { offset: offset + at, address: address + at, length: Math.min(step, bytes - at) }
    })
    if (file === undefined) {
      for (const piece of pieces) await readInto(source, piece.offset, this.#bytes(piece.address, piece.length))
      return
    }
    const loads = pieces.map((piece) => this.#do([{ read: { file, ...piece } }]))
    await Promise.allSettled(loads)
    await Promise.all(loads)
  }

  /** The largest result. */
  async #do(steps: readonly LaneStep[]): Promise<number> {
    if (this.#lanes.stream !== undefined) return this.#lanes.stream(steps)
    let largest = 0
    for (const { call } of steps) {
      if (call !== undefined) largest = Math.max(largest, (await this.#lanes.run(call.name, call.args)) >>> 0)
    }
    return largest
  }

  #bytes(at: number, length: number): Uint8Array {
    return new Uint8Array(this.#lanes.buffer, at, length)
  }
}

function countOf({ bytes, dtype }: FloatTensorSource): number {
  return bytes / ELEMENT_BYTES[dtype]
}
