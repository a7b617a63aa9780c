// What feeds the low-rank inputs of a graph: a bank of slots for a routed one, one pair a linear for a stacked one.
import { graphNames, type Linear, type LowRankManifest, type Manifest } from '../contract.ts'
import { sitesOf } from '../graph/sites.ts'
import type { CompiledModule } from '../read-adapter.ts'
import { type Feeds, floats, ints } from './session.ts'

export type Modules = ReadonlyMap<string, CompiledModule>

/** How a graph runs one or several variants of the model at once. */
export interface SidePath {
  /** Rows of a batch. */
  readonly rows: number
  readonly feeds: Feeds
  /** For engine.onnx, where that takes others. */
  readonly engine?: Feeds
}

export const PLAIN: SidePath = { rows: 1, feeds: {} }

/** Row 0 is the base, row i + 1 uses `adapters[i]`. */
export function bankOf({ bank }: Pick<LowRankManifest, 'bank'>, adapters: readonly Modules[]): SidePath {
  const rows = adapters.length + 1
  const rank = Math.max(1, ...adapters.flatMap((modules) => [...modules.values()].map(({ r }) => r)))
  const feeds: Record<string, Feeds[string]> = {}
  for (const linear of bank) {
    const { module, in: inSize, out } = linear
    // Slots in another order than rows, so that a graph that takes one for the other is found out.
    const slots = [undefined, ...adapters.toReversed()].map((modules) => factorsOf(linear, modules, rank))
    feeds[graphNames.bankA(module)] = floats(concat(slots.map(({ A }) => A)), rows, inSize, rank)
    feeds[graphNames.bankB(module)] = floats(concat(slots.map(({ B }) => B)), rows, rank, out)
  }
  const order = Array.from({ length: rows }, (_, row) => (row === 0 ? 0 : rows - row))
  return { rows, feeds: { ...feeds, [graphNames.adapterSlots]: ints(order, rows) } }
}

/** The same for both graphs of a decoder. */
export function routedOf(manifest: Manifest, adapters: readonly Modules[]): SidePath {
  return { ...bankOf(manifest, adapters), engine: groupsOf(manifest.base, adapters) }
}

/** For engine.onnx: a group a row, whose factors are those of the row; the linears of a site share an A. */
function groupsOf({ architecture }: Manifest['base'], adapters: readonly Modules[]): Feeds {
  const groups = [undefined, ...adapters]
  const feeds: Record<string, Feeds[string]> = {}
  for (const { name, linears } of sitesOf(architecture)) {
    const ranks = linears.flatMap(({ module }) => adapters.map((modules) => modules.get(module)?.r ?? 1))
    const rank = Math.max(1, ...ranks)
    const pairs = groups.map((modules) => linears.map((linear) => factorsOf(linear, modules, rank)))
    const inSize = linears[0]?.in ?? 0
    const A = pairs.map((ofLinears) =>
      beside(
        ofLinears.map((factors) => factors.A),
        inSize,
      ),
    )
    feeds[graphNames.pathA(name)] = floats(concat(A), groups.length, inSize, rank * linears.length)
    for (const [index, { module, out }] of linears.entries()) {
      const B = pairs.map((ofLinears) => ofLinears[index]?.B ?? new Float32Array())
      feeds[graphNames.pathB(module)] = floats(concat(B), groups.length, rank, out)
    }
  }
  return feeds
}

/** For engine-shared.onnx, whose rows all use `adapter`: the A of a site side by side, its B on a diagonal. */
export function sharedOf({ base }: Manifest, adapter: Modules): SidePath {
  const feeds: Record<string, Feeds[string]> = {}
  for (const { name, linears } of sitesOf(base.architecture)) {
    const rank = Math.max(1, ...linears.map(({ module }) => adapter.get(module)?.r ?? 1))
    const pairs = linears.map((linear) => factorsOf(linear, adapter, rank))
    const [inSize = 0] = linears.map((linear) => linear.in)
    const width = linears.reduce((sum, { out }) => sum + out, 0)
    const A = beside(
      pairs.map((pair) => pair.A),
      inSize,
    )
    const B = new Float32Array(linears.length * rank * width)
    let column = 0
    for (const [index, { out }] of linears.entries()) {
      for (let k = 0; k < rank; k += 1) {
        B.set(pairs[index]?.B.subarray(k * out, (k + 1) * out) ?? [], (index * rank + k) * width + column)
      }
      column += out
    }
    feeds[graphNames.sharedA(name)] = floats(A, inSize, linears.length * rank)
    feeds[graphNames.sharedB(name)] = floats(B, linears.length * rank, width)
  }
  return { rows: 1, feeds: {}, engine: feeds }
}

/** A [in, rank] and B [rank, out] of a linear, zeros where there are none. */
function factorsOf({ module, in: inSize, out }: Linear, modules: Modules | undefined, rank: number) {
  const [A, B] = [new Float32Array(inSize * rank), new Float32Array(rank * out)]
  const found = modules?.get(module)
  if (found === undefined) return { A, B }
  for (let i = 0; i < inSize; i += 1) A.set(found.A.subarray(i * found.r, (i + 1) * found.r), i * rank)
  B.set(found.B)
  return { A, B }
}

function concat(parts: readonly Float32Array[]): Float32Array {
  const whole = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}

/** Matrices of `lines` lines, side by side. */
function beside(parts: readonly Float32Array[], lines: number): Float32Array {
  const line = (part: Float32Array, at: number) =>
    part.subarray((at * part.length) / lines, ((at + 1) * part.length) / lines)
  return concat(Array.from({ length: lines }, (_, at) => parts.map((part) => line(part, at))).flat())
}

/** The factors of a stack; no modules are the base. */
export function stackOf({ stack = [] }: Pick<LowRankManifest, 'stack'>, modules: Modules): SidePath {
  const pair = ({ module, in: inSize, out }: Linear): [string, Feeds[string]][] => {
    const { r, A, B } = modules.get(module) ?? { r: 1, A: new Float32Array(inSize), B: new Float32Array(out) }
    return [
      [graphNames.stackA(module), floats(A, inSize, r)],
      [graphNames.stackB(module), floats(B, r, out)],
    ]
  }
  return { rows: 1, feeds: Object.fromEntries(stack.flatMap(pair)) }
}
