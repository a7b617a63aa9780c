// An adapter in the layout in which engine.onnx reads it: for each site one A, then the B of each linear, in one buffer.
import { graphNames } from '../../compiler/contract.ts'
import type { Site } from '../../compiler/graph/sites.ts'
import type { Tensor } from '../../runtime/session.ts'
import { BackendError } from '../errors.ts'

/** An adapter as the store gives it: A [in, r], B [r, out] with the scaling folded in, for the modules it targets. */
export interface Factors {
  readonly digest: string
  readonly modules: ReadonlyMap<string, { readonly A: Float32Array; readonly B: Float32Array; readonly r: number }>
}

export interface PackedSite {
  /** The largest rank among its linears, at least 1; those of lower rank are filled up with zeros, which is exact. */
  readonly r: number
  /** [in, k·r], one linear's columns beside the other's. */
  readonly A: Float32Array
  /** [r, out] of each linear. */
  readonly B: readonly Float32Array[]
  /** Of each linear: false where the adapter leaves it alone and its part is all zeros. */
  readonly changes: readonly boolean[]
}

export interface Packed {
  readonly digest: string
  readonly bytes: number
  readonly sites: readonly PackedSite[]
}

/** Memory for so many floats, whatever may lie in it. */
export type Allocate = (floats: number) => Float32Array

/** Throws `adapter_refused` when the adapter does not fit; `maxRank` is the bank's. */
export function prepare(
  sites: readonly Site[],
  maxRank: number,
  factors: Factors,
  allocate: Allocate = (floats) => new Float32Array(floats),
): Packed {
  const { digest, modules } = factors
  const linears = new Map(sites.flatMap((site) => site.linears.map((linear) => [linear.module, linear])))
  for (const [module, { A, B, r }] of modules) {
    const linear = linears.get(module)
    if (linear === undefined) throw refused(digest, `changes "${module}", which has no place in the bank`)
    if (r > maxRank) {
      throw refused(digest, `has r=${r} at "${module}"; the bank holds r=${maxRank} at most; start with bankRank ${r}`)
    }
    if (A.length !== linear.in * r || B.length !== r * linear.out)
      throw refused(digest, `has factors of a wrong size at "${module}"`)
  }
  return pack(sites, factors, allocate)
}

function refused(digest: string, what: string): BackendError {
  return new BackendError('adapter_refused', `adapter ${digest.slice(0, 12)} ${what}`)
}

/** The caller has checked the sizes. */
function pack(sites: readonly Site[], { digest, modules }: Factors, allocate: Allocate): Packed {
  const ranks = sites.map(({ linears }) => Math.max(1, ...linears.map(({ module }) => modules.get(module)?.r ?? 1)))
  const sizes = sites.map((site, at) => sizeOf(site, ranks[at]!))
  const buffer = allocate(sizes.reduce((sum, size) => sum + size, 0))
  let next = 0
  const take = (size: number): Float32Array => {
    next += size
    return buffer.subarray(next - size, next)
  }
  const packed = sites.map(({ linears }, at): PackedSite => {
    const r = ranks[at]!
    const inSize = linears[0]!.in
    const A = take(inSize * linears.length * r)
    const B = linears.map(({ out }) => take(r * out))
    if (linears.some(({ module }) => modules.get(module)?.r !== r)) A.fill(0)
    for (const [index, { module }] of linears.entries()) {
      const given = modules.get(module)
      if (given?.r !== r) B[index]!.fill(0)
      if (given === undefined) continue
      copyColumns(
        { matrix: given.A, line: given.r, at: 0 },
        { matrix: A, line: linears.length * r, at: index * r },
        given.r,
      )
      B[index]!.set(given.B)
    }
    return { r, A, B, changes: linears.map(({ module }) => modules.has(module)) }
  })
  return { digest, bytes: buffer.byteLength, sites: packed }
}

/** All parts of an adapter are views of one buffer, which goes from thread to thread without a copy. */
export function bufferOf({ sites: [first] }: Packed): ArrayBuffer {
  return first!.A.buffer as ArrayBuffer
}

/** Inputs of one group, in place. */
export function feedsOf(sites: readonly Site[], packed: Packed): Record<string, Tensor> {
  return Object.fromEntries(
    sites.flatMap(({ name, linears }, at): [string, Tensor][] => {
      const { r, A, B } = packed.sites[at]!
      return [
        [graphNames.pathA(name), { data: A, dims: [1, linears[0]!.in, linears.length * r] }],
        ...linears.map(({ module, out }, index): [string, Tensor] => [
          graphNames.pathB(module),
          { data: B[index]!, dims: [1, r, out] },
        ]),
      ]
    }),
  )
}

/** Elements of a site at rank r. */
function sizeOf({ linears }: Site, r: number): number {
  return linears.reduce((sum, linear) => sum + r * (linear.in + linear.out), 0)
}

/** Part of a matrix, line by line: columns `at` … `at + width` of lines that are `line` wide. */
export interface Columns {
  readonly matrix: Float32Array
  readonly line: number
  readonly at: number
}

export function copyColumns(from: Columns, to: Columns, width: number): void {
  const [read, write] = [from.matrix, to.matrix]
  if (from.line === width && to.line === width) {
    write.set(read)
    return
  }
  // Element by element: a call for each of the many short lines costs more than their elements.
  const fours = width - (width % 4)
  for (let source = from.at, target = to.at; source < read.length; source += from.line, target += to.line) {
    let column = 0
    for (; column < fours; column += 4) {
      write[target + column] = read[source + column]!
      write[target + column + 1] = read[source + column + 1]!
      write[target + column + 2] = read[source + column + 2]!
      write[target + column + 3] = read[source + column + 3]!
    }
    for (; column < width; column++) write[target + column] = read[source + column]!
  }
}
