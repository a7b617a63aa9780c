// Factors of rows that use different adapters, side by side in the order of the rows, so that the graph reads them in
// place. An adapter is copied here when its row joins, not at each step. What no adapter of a step changes is one group of
// zeros for all rows, which costs a step far less than a group a row.
import { graphNames } from '../../compiler/contract.ts'
import type { Site } from '../../compiler/graph/sites.ts'
import type { Tensor } from '../../runtime/session.ts'
import { copyColumns, type Packed } from './packed.ts'

/** Steps that need a lower rank before the places shrink to it: prompts and answers take turns, with other adapters. */
const SHRINK_AFTER_STEPS = 64
/** Kept of the views: adapters may change different linears, in any combination. */
const MAX_VIEWS = 256

interface Block {
  /** Of every place; adapters of lower rank are filled up with zeros. */
  r: number
  /** [places, in, k·r] */
  A: Float32Array
  /** [places, r, out] of each linear. */
  B: Float32Array[]
}

export class Places {
  readonly #sites: readonly Site[]
  readonly #maxPlaces: number
  #places = 0
  #blocks: Block[]
  /** What lies where: null, and a place that is not in it, is the base, all zeros. */
  #held: (Packed | null)[] = []
  #wideSteps = 0
  /** By place, number of rows and what they change; the same objects as long as the memory is the same. */
  readonly #feeds = new Map<string, Record<string, Tensor>>()
  /** Of any group of zeros. */
  #zeros = new Float32Array()

  constructor(sites: readonly Site[], maxPlaces: number) {
    this.#sites = sites
    this.#maxPlaces = maxPlaces
    this.#blocks = sites.map(() => ({ r: 0, A: new Float32Array(), B: [] }))
  }

  get bytes(): number {
    const floats = this.#blocks.reduce((sum, { A, B }) => sum + A.length + B.reduce((all, b) => all + b.length, 0), 0)
    return (floats + this.#zeros.length) * Float32Array.BYTES_PER_ELEMENT
  }

  /** Inputs of one group a row, for rows `first` … of the cache; null is a row of the base. */
  feeds(first: number, rows: readonly (Packed | null)[]): Record<string, Tensor> {
    this.#reserve(first + rows.length, rows)
    for (const [index, row] of rows.entries()) {
      const before = this.#held[first + index] ?? null
      if (before === row) continue
      this.#copy(first + index, row, before)
      this.#held[first + index] = row
    }
    const changed = this.#sites.map(({ linears }, site) =>
      linears.map((_, at) => rows.some((row) => row !== null && row.sites[site]!.changes[at])),
    )
    const key = `${first}+${rows.length}:${changed.map((linears) => linears.map(Number).join('')).join('')}`
    let feeds = this.#feeds.get(key)
    if (feeds === undefined) {
      if (this.#feeds.size >= MAX_VIEWS) this.#feeds.clear()
      feeds = this.#view(first, rows.length, changed)
      this.#feeds.set(key, feeds)
    }
    return feeds
  }

  /** Memory for `places` places of the ranks that `rows` need. */
  #reserve(places: number, rows: readonly (Packed | null)[]): void {
    const needs = this.#sites.map((_, site) => Math.max(1, ...rows.map((row) => row?.sites[site]?.r ?? 1)))
    const isNarrow = this.#blocks.some(({ r }, site) => r < needs[site]!)
    const isWide = this.#blocks.some(({ r }, site) => r > needs[site]!)
    this.#wideSteps = isWide ? this.#wideSteps + 1 : 0
    const shrink = this.#wideSteps > SHRINK_AFTER_STEPS
    if (places <= this.#places && !isNarrow && !shrink) return
    if (places > this.#places) this.#places = Math.min(this.#maxPlaces, Math.max(places, 2 * this.#places))
    this.#wideSteps = 0
    // Fresh memory is zeros.
    this.#held = []
    this.#feeds.clear()
    // The old blocks go first, so that the memory is not there twice.
    const ranks = this.#blocks.map(({ r }, site) => (shrink ? needs[site]! : Math.max(r, needs[site]!)))
    this.#blocks = []
    this.#blocks = this.#sites.map(({ linears }, site) => {
      const r = ranks[site]!
      return {
        r,
        A: new Float32Array(this.#places * linears[0]!.in * linears.length * r),
        B: linears.map(({ out }) => new Float32Array(this.#places * r * out)),
      }
    })
    const largest = this.#sites.flatMap(({ linears }, site) => [
      linears[0]!.in * linears.length,
      ...linears.map(({ out }) => ranks[site]! * out),
    ])
    this.#zeros = new Float32Array(Math.max(...largest))
  }

  /** What was there before must not shine through where this one is narrower. */
  #copy(place: number, row: Packed | null, before: Packed | null): void {
    for (const [site, { linears }] of this.#sites.entries()) {
      const { r: R, A, B } = this.#blocks[site]!
      const count = linears.length
      const own = row?.sites[site]
      const old = before?.sites[site]
      const part = (whole: Float32Array, size: number) => whole.subarray(place * size, (place + 1) * size)
      const isChanged = (at: number): boolean => own?.changes[at] === true
      const isDirty = (at: number): boolean => isChanged(at) || old?.changes[at] === true
      if (!linears.some((_, at) => isDirty(at))) continue
      const toA = part(A, linears[0]!.in * count * R)
      const isWhole = own?.r === R && linears.some((_, at) => isChanged(at))
      if (isWhole) toA.set(own.A)
      else toA.fill(0)
      for (const [at, { out }] of linears.entries()) {
        if (!isDirty(at)) continue
        const toB = part(B[at]!, R * out)
        if (own === undefined || !isChanged(at) || own.r < R) toB.fill(0)
        if (own === undefined || !isChanged(at)) continue
        toB.set(own.B[at]!)
        const from = { matrix: own.A, line: count * own.r, at: at * own.r }
        if (!isWhole) copyColumns(from, { matrix: toA, line: count * R, at: at * R }, own.r)
      }
    }
  }

  #view(first: number, count: number, changed: readonly (readonly boolean[])[]): Record<string, Tensor> {
    const view = (whole: Float32Array, ...dims: number[]): Tensor => {
      const size = dims.reduce((product, dim) => product * dim)
      return { data: whole.subarray(first * size, (first + count) * size), dims: [count, ...dims] }
    }
    const zeros = (...dims: number[]): Tensor => {
      const size = dims.reduce((product, dim) => product * dim)
      return { data: this.#zeros.subarray(0, size), dims: [1, ...dims] }
    }
    return Object.fromEntries(
      this.#sites.flatMap(({ name, linears }, site): [string, Tensor][] => {
        const { r: R, A, B } = this.#blocks[site]!
        // The graph learns from the first input how many groups there are.
        const isIdle = site > 0 && !changed[site]!.includes(true)
        const r = isIdle ? 1 : R
        const widthA = linears.length * r
        return [
          [graphNames.pathA(name), isIdle ? zeros(linears[0]!.in, widthA) : view(A, linears[0]!.in, widthA)],
          ...linears.map(({ module, out }, at): [string, Tensor] => [
            graphNames.pathB(module),
            changed[site]![at] ? view(B[at]!, r, out) : zeros(r, out),
          ]),
        ]
      }),
    )
  }
}
