// The bank in the device's memory: a slot is one write to the queue per tensor. What a step reads lies row by row in
// places of its own, to which the device copies a slot when its row joins, not at each step.
import { graphNames } from '../../compiler/contract.ts'
import type { Site } from '../../compiler/graph/sites.ts'
import type { DeviceTensor } from '../../runtime/web.ts'
import { BackendError } from '../errors.ts'
import { copyColumns, type Factors, type Packed, prepare } from './packed.ts'

/** One input of the graph; [n, lines, width] for n slots or places. */
interface Block {
  readonly name: string
  readonly lines: number
  readonly width: number
  readonly slots: GPUBuffer
  readonly places: GPUBuffer
  /** The same of rank 1, one place of zeros. */
  readonly zero: DeviceTensor
  /** What a packed adapter has for it, in the rank of the bank. */
  widen(packed: Packed): Float32Array<ArrayBuffer>
}

export interface DeviceBankSize {
  /** Slot 0, the base, included. */
  readonly slots: number
  /** Of every slot: shapes that stay the same spare the device new shaders. */
  readonly rank: number
  /** The most of a batch. */
  readonly rows: number
}

const FLOAT = Float32Array.BYTES_PER_ELEMENT

export class DeviceBank {
  readonly rank: number
  readonly #device: GPUDevice
  readonly #sites: readonly Site[]
  readonly #blocks: readonly Block[]
  /** Slot 0 is never written: it is zeros. */
  readonly #slots: (Packed | null)[]
  /** What lies in which place; undefined is anything. */
  readonly #placed: (Packed | null | undefined)[] = []

  private constructor(device: GPUDevice, sites: readonly Site[], size: DeviceBankSize) {
    this.rank = size.rank
    this.#device = device
    this.#sites = sites
    this.#blocks = sites.flatMap((site, at) => blocksOf(device, site, at, size))
    this.#slots = Array.from({ length: size.slots }, () => null)
  }

  /** Throws `config_invalid` where the device has no memory for it. */
  static async open(device: GPUDevice, sites: readonly Site[], size: DeviceBankSize): Promise<DeviceBank> {
    const { slots, rank, rows } = size
    const widest = Math.max(
      ...sites.flatMap(({ linears }) => [linears.length * linears[0]!.in, ...linears.map(({ out }) => out)]),
    )
    const largest = widest * Math.max(slots, rows) * rank * FLOAT
    const most = Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize)
    const bank = `a bank of ${slots - 1} slots of rank ${rank}`
    if (largest > most) throw invalid(`${bank} has a tensor of ${largest} bytes, and the device takes ${most}`)
    device.pushErrorScope('out-of-memory')
    const opened = new DeviceBank(device, sites, size)
    if ((await device.popErrorScope()) === null) return opened
    opened.destroy()
    throw invalid(`${bank} does not fit the memory of the device`)
  }

  /** Throws `adapter_refused` when the adapter does not fit. */
  prepare(factors: Factors): Packed {
    return prepare(this.#sites, this.rank, factors)
  }

  /** The whole slot: what the last adapter left must not shine through where this one is narrower. */
  write(slot: number, packed: Packed): void {
    if (slot === 0) throw new Error('sidepath bug: slot 0 is the base and is never written')
    this.#slots[slot] = packed
    for (const { slots, widen } of this.#blocks) {
      const values = widen(packed)
      this.#device.queue.writeBuffer(slots, slot * values.byteLength, values)
    }
  }

  /** Inputs for the first rows of the cache, each with its slot: one group for all, or one a row. */
  feeds(slots: readonly number[]): Record<string, DeviceTensor> {
    const [one = 0] = slots
    const shared = slots.every((slot) => slot === one)
    if (shared && one === 0) return Object.fromEntries(this.#blocks.map(({ name, zero }) => [name, zero]))
    const groups = shared ? [one] : slots
    this.#place(groups)
    return Object.fromEntries(
      this.#blocks.map(({ name, lines, width, places }) => [
        name,
        { buffer: places, dims: [groups.length, lines, width] },
      ]),
    )
  }

  destroy(): void {
    for (const { slots, places, zero } of this.#blocks) for (const b of [slots, places, zero.buffer]) b.destroy()
  }

  #place(slots: readonly number[]): void {
    const moved = [...slots.entries()].filter(([place, slot]) => this.#placed[place] !== this.#slots[slot]!)
    if (moved.length === 0) return
    const encoder = this.#device.createCommandEncoder()
    for (const [place, slot] of moved) {
      for (const block of this.#blocks) {
        const bytes = block.lines * block.width * FLOAT
        encoder.copyBufferToBuffer(block.slots, slot * bytes, block.places, place * bytes, bytes)
      }
      this.#placed[place] = this.#slots[slot]!
    }
    this.#device.queue.submit([encoder.finish()])
  }
}

/** A of the site, then B of each of its linears. A fresh buffer is all zeros. */
function blocksOf(device: GPUDevice, { name, linears }: Site, site: number, size: DeviceBankSize): Block[] {
  const { slots, rank: R, rows } = size
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC
  const buffer = (elements: number): GPUBuffer => device.createBuffer({ size: elements * FLOAT, usage })
  const block = (name: string, [lines, width]: [number, number], thin: [number, number]) => ({
    name,
    lines,
    width,
    slots: buffer(slots * lines * width),
    places: buffer(rows * lines * width),
    zero: { buffer: buffer(thin[0] * thin[1]), dims: [1, ...thin] },
  })
  const count = linears.length
  const inSize = linears[0]!.in
  return [
    {
      ...block(graphNames.pathA(name), [inSize, count * R], [inSize, count]),
      widen(packed) {
        const { r, A } = packed.sites[site]!
        const wide = new Float32Array(inSize * count * R)
        for (let at = 0; at < count; at++) {
          copyColumns({ matrix: A, line: count * r, at: at * r }, { matrix: wide, line: count * R, at: at * R }, r)
        }
        return wide
      },
    },
    ...linears.map(({ module, out }, index) => ({
      ...block(graphNames.pathB(module), [R, out], [1, out]),
      widen(packed: Packed) {
        const wide = new Float32Array(R * out)
        wide.set(packed.sites[site]!.B[index]!)
        return wide
      },
    })),
  ]
}

function invalid(found: string): BackendError {
  return new BackendError('config_invalid', `${found}; choose fewer slots, rows or a smaller bankRank`)
}
