// What feeds the low-rank inputs of a graph: a bank of slots for a routed one, one pair a linear for a stacked one.
import { graphNames, type Linear, type LowRankManifest } from '../contract.ts'
import type { CompiledModule } from '../read-adapter.ts'
import { type Feeds, floats, ints } from './session.ts'

export type Modules = ReadonlyMap<string, CompiledModule>

/** How a graph runs one or several variants of the model at once. */
export interface SidePath {
  /** Rows of a batch. */
  readonly rows: number
  readonly feeds: Feeds
}

export const PLAIN: SidePath = { rows: 1, feeds: {} }

/** Row 0 is the base, row i + 1 uses `adapters[i]`. */
export function bankOf({ bank }: Pick<LowRankManifest, 'bank'>, adapters: readonly Modules[]): SidePath {
  const rows = adapters.length + 1
  const rank = Math.max(1, ...adapters.flatMap((modules) => [...modules.values()].map(({ r }) => r)))
  const feeds: Record<string, Feeds[string]> = {}
  for (const { module, in: inSize, out } of bank) {
    const A = new Float32Array(rows * inSize * rank)
    const B = new Float32Array(rows * rank * out)
    for (const [index, modules] of adapters.entries()) {
      const found = modules.get(module)
      if (found === undefined) continue
      const slot = rows - 1 - index
      for (let i = 0; i < inSize; i += 1) {
        A.set(found.A.subarray(i * found.r, (i + 1) * found.r), (slot * inSize + i) * rank)
      }
      B.set(found.B, slot * rank * out)
    }
    feeds[graphNames.bankA(module)] = floats(A, rows, inSize, rank)
    feeds[graphNames.bankB(module)] = floats(B, rows, rank, out)
  }
  // Slots in another order than rows, so that a graph that takes one for the other is found out.
  const order = Array.from({ length: rows }, (_, row) => (row === 0 ? 0 : rows - row))
  return { rows, feeds: { ...feeds, [graphNames.adapterSlots]: ints(order, rows) } }
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
