// Factors of rows that use different adapters, side by side in the order of the rows, so that the graph reads them in
// place. An adapter is copied here when its row joins, not at each step.
import { graphNames } from '../../compiler/contract.ts'
import type { Site } from '../../compiler/graph/sites.ts'
import type { Tensor } from '../../runtime/session.ts'
import { copyColumns, type Packed } from './packed.ts'

/** Steps that need a lower rank before the places shrink to it: prompts and answers take turns, with other adapters. */
const SHRINK_AFTER_STEPS = 64

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
  /** What lies where: null is the base, all zeros; undefined is anything. */
  #held: (Packed | null | undefined)[] = []
  #wideSteps = 0
  /** By place and number of rows; the same objects as long as the memory is the same. */
  readonly #feeds = new Map<string, Record<string, Tensor>>()

  constructor(sites: readonly Site[], maxPlaces: number) {
    this.#sites = sites
    this.#maxPlaces = maxPlaces
    this.#blocks = sites.map(() => ({ r: 0, A: new Float32Array(), B: [] }))
  }

  get bytes(): number {
    const floats = this.#blocks.reduce((sum, { A, B }) => sum + A.length + B.reduce((all, b) => all + b.length, 0), 0)
    return floats * Float32Array.BYTES_PER_ELEMENT
  }

  /** Inputs of one group a row, for rows `first` … of the cache; null is a row of the base. */
  feeds(first: number, rows: readonly (Packed | null)[]): Record<string, Tensor> {
    this.#reserve(first + rows.length, rows)
    for (const [index, row] of rows.entries()) {
      if (this.#held[first + index] === row) continue
      this.#copy(first + index, row)
      this.#held[first + index] = row
    }
    const key = `${first}+${rows.length}`
    let feeds = this.#feeds.get(key)
    if (feeds === undefined) {
      feeds = this.#view(first, rows.length)
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
  }

  /** What was there before must not shine through where this one is narrower. */
  #copy(place: number, row: Packed | null): void {
    for (const [site, { linears }] of this.#sites.entries()) {
      const { r: R, A, B } = this.#blocks[site]!
      const count = linears.length
      const own = row?.sites[site]
      const part = (whole: Float32Array, size: number) => whole.subarray(place * size, (place + 1) * size)
      const toA = part(A, linears[0]!.in * count * R)
      if (own === undefined || own.r < R) toA.fill(0)
      if (own?.r === R) toA.set(own.A)
      else if (own !== undefined) {
        for (let at = 0; at < count; at++) {
          const from = { matrix: own.A, line: count * own.r, at: at * own.r }
          copyColumns(from, { matrix: toA, line: count * R, at: at * R }, own.r)
        }
      }
      for (const [index, { out }] of linears.entries()) {
        const toB = part(B[index]!, R * out)
        if (own === undefined || own.r < R) toB.fill(0)
        if (own !== undefined) toB.set(own.B[index]!)
      }
    }
  }

  #view(first: number, count: number): Record<string, Tensor> {
    const view = (whole: Float32Array, ...dims: number[]): Tensor => {
      const size = dims.reduce((product, dim) => product * dim)
      return { data: whole.subarray(first * size, (first + count) * size), dims: [count, ...dims] }
    }
    return Object.fromEntries(
      this.#sites.flatMap(({ name, linears }, site): [string, Tensor][] => {
        const { r, A, B } = this.#blocks[site]!
        return [
          [graphNames.pathA(name), view(A, linears[0]!.in, linears.length * r)],
          ...linears.map(({ module, out }, index): [string, Tensor] => [
            graphNames.pathB(module),
            view(B[index]!, r, out),
          ]),
        ]
      }),
    )
  }
}
