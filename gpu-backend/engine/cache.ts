// The KV cache in host memory: which row lies where, how long the rows may be, and the bytes that all of it may take.
// The graph reads it as an input and never returns it, because onnxruntime-node copies every output.
import { BLOCK_TOKENS, type PrefixBlocks, PrefixCache } from './prefix-cache.ts'

export interface CacheShape {
  readonly layers: number
  readonly kvHeads: number
  readonly headDim: number
  readonly maxPositions: number
  readonly maxRows: number
  /** Bytes of the cache, all rows and layers, and prefixes. While it is resized, one layer's tensor exists twice. */
  readonly budgetBytes: number
  /** Of those, what prefixes may take that rows do not need; they make way for rows. None where absent. */
  readonly prefixBytes?: number | undefined
}

export interface CacheRow {
  /** Index of the row in every tensor; rows move when others come and go. */
  readonly place: number
  /** Tokens in the cache. */
  readonly length: number
  /** Tokens that the row may come to hold. */
  readonly need: number
}

interface OwnRow {
  place: number
  length: number
  readonly need: number
}

/** Smallest capacity, and the step to the next ones. */
const SMALLEST_CAPACITY = 64
/** From four times that on, an octave has four: attention reads up to the capacity, and growth must not copy too often. */
const STEPS_PER_OCTAVE = 4
/** Capacity shrinks only when rows need a quarter of it or less: not at every departure. */
const SHRINK_BELOW = 4

/**
 * Per layer: keys [rows, H, D, C], one column a token; values [rows, H, C, D]. Rows in use are 0 … n - 1, so that a
 * batch is a view. Everything that was never written is zero: the graph masks stale entries, but NaN survives a mask.
 */
export class Cache implements PrefixBlocks {
  readonly #shape: CacheShape
  readonly #rows: OwnRow[] = []
  #capacity = SMALLEST_CAPACITY
  /** Rows for which memory is held. */
  #held = 0
  #generation = 0
  #keys: Float32Array[]
  #values: Float32Array[]
  readonly #prefixes: PrefixCache

  constructor(shape: CacheShape) {
    this.#shape = shape
    this.#prefixes = new PrefixCache(shape.prefixBytes ?? 0, 2 * shape.layers * this.#stride(BLOCK_TOKENS))
    this.#capacity = Math.min(SMALLEST_CAPACITY, shape.maxPositions)
    this.#keys = Array.from({ length: shape.layers }, () => new Float32Array(0))
    this.#values = Array.from({ length: shape.layers }, () => new Float32Array(0))
  }

  get capacity(): number {
    return this.#capacity
  }

  /** Another number whenever the views are others. */
  get generation(): number {
    return this.#generation
  }

  /** Of the rows. */
  get bytes(): number {
    return this.#bytes(this.#held, this.#capacity)
  }

  /** Undefined where the budget holds no block. */
  get prefixes(): PrefixBlocks | undefined {
    return this.#prefixes.fits ? this : undefined
  }

  get prefixBytes(): number {
    return this.#prefixes.bytes
  }

  /** Could a row of `need` tokens be held if it were alone? */
  fits(need: number): boolean {
    return need <= this.#shape.maxPositions && this.#bytes(1, this.#bucket(need)) <= this.#shape.budgetBytes
  }

  /** Can it be held now, with every row that is here grown to what it needs? */
  hasRoom(need: number): boolean {
    const rows = this.#rows.length + 1
    return rows <= this.#shape.maxRows && this.#bytes(rows, this.#grown(need)) <= this.#shape.budgetBytes
  }

  /** The caller has asked `hasRoom`. */
  open(need: number): CacheRow {
    if (!this.hasRoom(need)) throw new Error('sidepath bug: a row was opened without room for it')
    const row: OwnRow = { place: this.#rows.length, length: 0, need }
    // A row that has left may have left a capacity that no row here can come to need.
    if (row.place === this.#held) this.#resize(Math.min(this.#capacity, this.#grown(need)), row.place + 1)
    this.#rows.push(row)
    return row
  }

  close(row: CacheRow): void {
    const last = this.#rows.at(-1)!
    if (last !== row) this.#swap(row.place, last.place)
    this.#rows.pop()
    const longest = this.#rows.reduce((most, { length }) => Math.max(most, length), 0)
    if (longest * SHRINK_BELOW <= this.#capacity) {
      const capacity = this.#bucket(longest * 2)
      if (capacity < this.#capacity) this.#resize(capacity, this.#rows.length)
    }
  }

  /** Makes the rows neighbours, with as few moves as it takes; returns the first place. */
  arrange(rows: readonly CacheRow[]): number {
    const places = rows.map((row) => row.place)
    const first = Math.min(...places)
    if (Math.max(...places) - first + 1 === rows.length) return first
    const back = this.#rows.length - rows.length
    const outside = (from: number): number[] => places.filter((place) => place < from || place >= from + rows.length)
    const from = outside(0).length <= outside(back).length ? 0 : back
    const members = new Set(places)
    let free = from
    for (const place of outside(from)) {
      while (members.has(free)) free += 1
      this.#swap(place, free)
      free += 1
    }
    return from
  }

  /** `count` rows from `first` on: keys and values of one layer, in place. */
  view(layer: number, first: number, count: number): { key: Float32Array; value: Float32Array } {
    const stride = this.#stride(this.#capacity)
    const [from, to] = [first * stride, (first + count) * stride]
    return { key: this.#keys[layer]!.subarray(from, to), value: this.#values[layer]!.subarray(from, to) }
  }

  /**
   * Appends tokens to a row: for each layer the first `count` of S columns of `keys` [H, D, S] and of S rows of `values`
   * [H, S, D]. False, and nothing appended, where one of them is not finite.
   */
  append(row: CacheRow, keys: readonly Float32Array[], values: readonly Float32Array[], count: number): boolean {
    const own = row as OwnRow
    const length = own.length + count
    if (length > own.need) throw new Error('sidepath bug: a row outgrew what it said it needs')
    if (!keys.every(allFinite) || !values.every(allFinite)) return false
    if (length > this.#capacity) this.#resize(this.#bucket(length), this.#held)
    const { kvHeads, headDim } = this.#shape
    const C = this.#capacity
    const start = own.place * this.#stride(C)
    for (const [layer, key] of keys.entries()) {
      const S = key.length / (kvHeads * headDim)
      const toKey = this.#keys[layer]!
      for (let line = 0; line < kvHeads * headDim; line++) {
        const to = start + line * C + own.length
        for (let s = 0; s < count; s++) toKey[to + s] = key[line * S + s]!
      }
      const value = values[layer]!
      for (let head = 0; head < kvHeads; head++) {
        const from = value.subarray(head * S * headDim, (head * S + count) * headDim)
        this.#values[layer]!.set(from, start + (head * C + own.length) * headDim)
      }
    }
    own.length = length
    return true
  }

  hasBlock(key: string): boolean {
    return this.#prefixes.has(key)
  }

  /** Appends the blocks of these keys to a row, up to the first that is gone; returns how many. */
  restoreBlocks(row: CacheRow, keys: readonly string[]): number {
    const own = row as OwnRow
    const length = own.length + keys.length * BLOCK_TOKENS
    if (length > own.need) throw new Error('sidepath bug: a row outgrew what it said it needs')
    // Blocks may have been the memory that the row needs to hold them.
    if (length > this.#capacity) this.#resize(this.#bucket(length), this.#held)
    for (const [index, key] of keys.entries()) {
      const block = this.#prefixes.find(key)
      if (block === undefined) return index
      this.#blockLines(own.place, own.length, (tensor, from, to, count) => {
        for (let at = 0; at < count; at++) tensor[to + at] = block[from + at]!
      })
      own.length += BLOCK_TOKENS
    }
    this.#prefixes.use(keys.at(-1)!)
    return keys.length
  }

  /** Keeps a block of a row, which holds it whole. */
  keepBlock(row: CacheRow, at: number, key: string, parent: string | undefined): void {
    const block = this.#prefixes.add(key, parent, this.#shape.budgetBytes - this.bytes)
    if (block === undefined) return
    this.#blockLines(row.place, at, (tensor, to, from, count) => {
      for (let next = 0; next < count; next++) block[to + next] = tensor[from + next]!
    })
  }

  /** Each run of numbers that is one in a block, as [2, layers, lines, run], and in the row's tensor. */
  #blockLines(
    place: number,
    token: number,
    visit: (tensor: Float32Array, inBlock: number, inTensor: number, count: number) => void,
  ): void {
    const { kvHeads, headDim } = this.#shape
    const C = this.#capacity
    const start = place * this.#stride(C)
    let next = 0
    for (const key of this.#keys) {
      for (let line = 0; line < kvHeads * headDim; line++, next += BLOCK_TOKENS) {
        visit(key, next, start + line * C + token, BLOCK_TOKENS)
      }
    }
    for (const value of this.#values) {
      for (let head = 0; head < kvHeads; head++, next += BLOCK_TOKENS * headDim) {
        visit(value, next, start + (head * C + token) * headDim, BLOCK_TOKENS * headDim)
      }
    }
  }

  /** The capacity once this need and those of all rows are used up. */
  #grown(need: number): number {
    return this.#bucket(this.#rows.reduce((most, row) => Math.max(most, row.need), need))
  }

  #bucket(tokens: number): number {
    let capacity = SMALLEST_CAPACITY
    while (capacity < tokens) {
      const octave = 2 ** Math.floor(Math.log2(capacity))
      capacity += Math.max(SMALLEST_CAPACITY, octave / STEPS_PER_OCTAVE)
    }
    return Math.min(capacity, this.#shape.maxPositions)
  }

  /** Elements of one row in one tensor. */
  #stride(capacity: number): number {
    return this.#shape.kvHeads * this.#shape.headDim * capacity
  }

  #bytes(rows: number, capacity: number): number {
    return rows * this.#stride(capacity) * this.#shape.layers * 2 * Float32Array.BYTES_PER_ELEMENT
  }

  /** Memory for at least `rows` rows, twice as many as before where the budget allows, of `capacity` tokens each. */
  #resize(capacity: number, rows: number): void {
    // Prefixes make way for rows that are here, and not for those that may come.
    const affordable = Math.floor((this.#shape.budgetBytes - this.prefixBytes) / this.#bytes(1, capacity))
    const grows = rows > this.#held
    const needed = grows ? rows : this.#rows.length
    const wanted = grows ? this.#held * 2 : rows
    const held = Math.min(Math.max(needed, Math.min(wanted, affordable)), this.#shape.maxRows)
    this.#prefixes.trim(this.#shape.budgetBytes - this.#bytes(held, capacity))
    const { kvHeads, headDim } = this.#shape
    const old = this.#capacity
    for (let layer = 0; layer < this.#shape.layers; layer++) {
      const key = new Float32Array(held * this.#stride(capacity))
      for (const { place, length } of this.#rows) {
        for (let line = place * kvHeads * headDim; line < (place + 1) * kvHeads * headDim; line++) {
          key.set(this.#keys[layer]!.subarray(line * old, line * old + length), line * capacity)
        }
      }
      this.#keys[layer] = key
      const value = new Float32Array(held * this.#stride(capacity))
      for (const { place, length } of this.#rows) {
        for (let head = place * kvHeads; head < (place + 1) * kvHeads; head++) {
          const from = head * old * headDim
          value.set(this.#values[layer]!.subarray(from, from + length * headDim), head * capacity * headDim)
        }
      }
      this.#values[layer] = value
    }
    this.#capacity = capacity
    this.#held = held
    this.#generation += 1
  }

  #swap(a: number, b: number): void {
    const stride = this.#stride(this.#capacity)
    for (const tensor of [...this.#keys, ...this.#values]) {
      const kept = tensor.slice(a * stride, (a + 1) * stride)
      tensor.copyWithin(a * stride, b * stride, (b + 1) * stride)
      tensor.set(kept, b * stride)
    }
    const [atA, atB] = [this.#rows[a]!, this.#rows[b]!]
    this.#rows[a] = atB
    this.#rows[b] = atA
    atB.place = a
    atA.place = b
  }
}

/** As the sampler's check: x·0 is NaN where x is not finite. */
function allFinite(values: Float32Array): boolean {
  let sum = 0
  for (let at = 0; at < values.length; at++) sum += values[at]! * 0
  return sum === 0
}
