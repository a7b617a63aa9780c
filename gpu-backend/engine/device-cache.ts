// The KV cache in the device's memory. The batch of a step is its first rows, because a tensor on the device begins where
// its buffer does; what a step computes is appended by a kernel and never comes to the host.
import { graphNames } from '../../compiler/contract.ts'
import type { DeviceTensor } from '../../runtime/web.ts'
import type { CacheRow, CacheShape } from './cache.ts'
import { DeviceCopy, type Lines, type Span } from './device-copy.ts'

interface OwnRow {
  place: number
  length: number
  readonly need: number
}

/** As in the host's cache: capacities double, so that shapes are few. */
const SMALLEST_CAPACITY = 64

/** Keys [rows, H, D, C], one column a token; values [rows, H, C, D]. A fresh buffer is all zeros. */
type Kind = 'key' | 'value'

export class DeviceCache {
  readonly #device: GPUDevice
  readonly #shape: CacheShape
  readonly #copy: DeviceCopy
  readonly #rows: OwnRow[] = []
  #capacity = 0
  /** Rows for which memory is held. */
  #held = 0
  #buffers: Record<Kind, GPUBuffer[]> = { key: [], value: [] }

  constructor(device: GPUDevice, shape: CacheShape) {
    this.#device = device
    this.#shape = shape
    this.#copy = new DeviceCopy(device)
  }

  get capacity(): number {
    return this.#capacity
  }

  get bytes(): number {
    return this.#bytes(this.#held, this.#capacity)
  }

  /** Could a row of `need` tokens be held if it were alone? */
  fits(need: number): boolean {
    return need <= this.#shape.maxPositions && this.#bytes(1, this.#bucket(need)) <= this.#shape.budgetBytes
  }

  /** Can it be held now, with every row that is here grown to what it needs? */
  hasRoom(need: number): boolean {
    const rows = this.#rows.length + 1
    const most = this.#rows.reduce((longest, row) => Math.max(longest, row.need), need)
    return rows <= this.#shape.maxRows && this.#bytes(rows, this.#bucket(most)) <= this.#shape.budgetBytes
  }

  /** The caller has asked `hasRoom`. */
  open(need: number): CacheRow {
    if (!this.hasRoom(need)) throw new Error('sidepath bug: a row was opened without room for it')
    const row: OwnRow = { place: this.#rows.length, length: 0, need }
    this.#rows.push(row)
    return row
  }

  close(row: CacheRow): void {
    const last = this.#rows.at(-1)!
    if (last !== row) this.#swap([[row as OwnRow, last]])
    this.#rows.pop()
    if (this.#rows.length === 0) this.#drop()
  }

  /** Before a step: the rows come to the front, in any order, and there is room for `counts` tokens more in each. */
  prepare(rows: readonly CacheRow[], counts: readonly number[]): void {
    const longest = Math.max(...rows.map(({ length, need }, at) => Math.min(length + counts[at]!, need)))
    const inUse = this.#rows.reduce((most, { length }) => Math.max(most, length), longest)
    const capacity = this.#bucket(inUse)
    // Rows that have left may have left a capacity that, with as many rows as there are now, is beyond the budget.
    if (this.#rows.length > this.#held || capacity > this.#capacity) this.#resize(capacity)
    const inside = rows.filter(({ place }) => place < rows.length)
    const taken = new Set(inside.map(({ place }) => place))
    const free = this.#rows.filter(({ place }) => place < rows.length && !taken.has(place))
    const outside = rows.filter(({ place }) => place >= rows.length)
    this.#swap(outside.map((row, at) => [row as OwnRow, free[at]!]))
  }

  /** Of the first `count` rows. */
  feeds(count: number): Record<string, DeviceTensor> {
    const { kvHeads: H, headDim: D } = this.#shape
    const feeds: Record<string, DeviceTensor> = {}
    for (const [layer, buffer] of this.#buffers.key.entries()) {
      feeds[graphNames.cacheKey(layer)] = { buffer, dims: [count, H, D, this.#capacity] }
      feeds[graphNames.cacheValue(layer)] = { buffer: this.#buffers.value[layer]!, dims: [count, H, this.#capacity, D] }
    }
    return feeds
  }

  /**
   * Appends, in the order of their places, the first `counts` of S new tokens to each of the first rows; `fresh` has the
   * graph's outputs. Returns a flag a row, on the device, which is not 0 where something was not finite; such a row is
   * to be closed. `destroy` after the submit.
   */
  append(
    encoder: GPUCommandEncoder,
    fresh: Readonly<Record<string, DeviceTensor>>,
    counts: readonly number[],
    S: number,
  ): { broken: GPUBuffer; destroy(): void } {
    const { kvHeads: H, headDim: D, layers } = this.#shape
    const rows = this.#rows.slice(0, counts.length)
    for (const [at, { length, need }] of rows.entries()) {
      if (length + counts[at]! > need) throw new Error('sidepath bug: a row outgrew what it said it needs')
    }
    const spans = (unit: number): Span[] =>
      rows.map(({ length }, at) => ({ begin: length * unit, count: counts[at]! * unit }))
    const C = this.#capacity
    const keys = this.#copy.plan({ linesPerRow: H * D, fromWidth: S, toWidth: C }, spans(1))
    const values = this.#copy.plan({ linesPerRow: H, fromWidth: S * D, toWidth: C * D }, spans(D), keys.broken)
    const pass = encoder.beginComputePass()
    for (let layer = 0; layer < layers; layer++) {
      this.#copy.encode(pass, keys, fresh[graphNames.newKey(layer)]!.buffer, this.#buffers.key[layer]!)
      this.#copy.encode(pass, values, fresh[graphNames.newValue(layer)]!.buffer, this.#buffers.value[layer]!)
    }
    pass.end()
    return {
      broken: keys.broken,
      destroy() {
        values.destroy()
        keys.destroy()
      },
    }
  }

  /** `append` has run, and the row is whole. */
  advance(row: CacheRow, count: number): void {
    ;(row as OwnRow).length += count
  }

  destroy(): void {
    this.#drop()
  }

  #bucket(tokens: number): number {
    let capacity = SMALLEST_CAPACITY
    while (capacity < tokens) capacity *= 2
    return Math.min(capacity, this.#shape.maxPositions)
  }

  /** Elements of one row in one tensor. */
  #stride(capacity: number): number {
    return this.#shape.kvHeads * this.#shape.headDim * capacity
  }

  #bytes(rows: number, capacity: number): number {
    return rows * this.#stride(capacity) * this.#shape.layers * 2 * Float32Array.BYTES_PER_ELEMENT
  }

  /** Memory for all rows, twice as many as before where the budget allows, of `capacity` tokens each. */
  #resize(capacity: number): void {
    const affordable = Math.floor(this.#shape.budgetBytes / this.#bytes(1, capacity))
    const wanted = this.#rows.length > this.#held ? Math.max(this.#rows.length, this.#held * 2) : this.#held
    const held = Math.min(wanted, this.#shape.maxRows, affordable)
    const { kvHeads: H, headDim: D, layers } = this.#shape
    const lines = {
      key: { linesPerRow: H * D, fromWidth: this.#capacity, toWidth: capacity },
      value: { linesPerRow: H, fromWidth: this.#capacity * D, toWidth: capacity * D },
    }
    const size = held * this.#stride(capacity) * Float32Array.BYTES_PER_ELEMENT
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST
    const buffers: Record<Kind, GPUBuffer[]> = { key: [], value: [] }
    for (const kind of ['key', 'value'] as const) {
      for (let layer = 0; layer < layers; layer++) {
        const to = this.#device.createBuffer({ size, usage })
        const from = this.#buffers[kind][layer]
        if (from !== undefined) this.#lay(from, to, lines[kind])
        buffers[kind].push(to)
      }
    }
    this.#buffers = buffers
    this.#capacity = capacity
    this.#held = held
  }

  /** The rows that `from` has memory for, in lines of another width; then `from` goes. */
  #lay(from: GPUBuffer, to: GPUBuffer, lines: Lines): void {
    const count = Math.min(lines.fromWidth, lines.toWidth)
    const rows = this.#rows.slice(0, this.#held)
    if (rows.length > 0) {
      const plan = this.#copy.plan(
        lines,
        rows.map(() => ({ begin: 0, count })),
      )
      this.#submit((encoder) => {
        const pass = encoder.beginComputePass()
        this.#copy.encode(pass, plan, from, to)
        pass.end()
      })
      plan.destroy()
      plan.broken.destroy()
    }
    from.destroy()
  }

  /** A copy within one buffer is not allowed, so both rows go by way of another. */
  #swap(pairs: readonly (readonly [OwnRow, OwnRow])[]): void {
    // Rows that were opened and have not run yet have no memory, and nothing to move.
    const held = pairs.filter((pair) => pair.every(({ place }) => place < this.#held))
    if (held.length > 0) {
      const bytes = this.#stride(this.#capacity) * Float32Array.BYTES_PER_ELEMENT
      const usage = GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST
      const between = this.#device.createBuffer({ size: bytes * 2, usage })
      this.#submit((encoder) => {
        for (const [a, b] of held) {
          for (const buffer of [...this.#buffers.key, ...this.#buffers.value]) {
            encoder.copyBufferToBuffer(buffer, a.place * bytes, between, 0, bytes)
            encoder.copyBufferToBuffer(buffer, b.place * bytes, between, bytes, bytes)
            encoder.copyBufferToBuffer(between, 0, buffer, b.place * bytes, bytes)
            encoder.copyBufferToBuffer(between, bytes, buffer, a.place * bytes, bytes)
          }
        }
      })
      between.destroy()
    }
    for (const [a, b] of pairs) {
      const place = a.place
      a.place = b.place
      b.place = place
      this.#rows[a.place] = a
      this.#rows[b.place] = b
    }
  }

  #submit(encode: (encoder: GPUCommandEncoder) => void): void {
    const encoder = this.#device.createCommandEncoder()
    encode(encoder)
    this.#device.queue.submit([encoder.finish()])
  }

  #drop(): void {
    for (const buffer of [...this.#buffers.key, ...this.#buffers.value]) buffer.destroy()
    this.#buffers = { key: [], value: [] }
    this.#capacity = 0
    this.#held = 0
  }
}
