// The factors of one adapter that all rows of a step use, as engine-shared.onnx reads them: of a site with several linears
// the B lie on the diagonal of one matrix, which is memory of its own beside the adapter's.
import { graphNames } from '../../compiler/contract.ts'
import type { Site } from '../../compiler/graph/sites.ts'
import type { Session, Tensor } from '../../runtime/session.ts'
import { copyColumns, type Packed } from './packed.ts'

/** Steps in a row that an adapter is alone before its matrices are made, which costs as much as a few steps spare. */
const STEADY_STEPS = 8
/** Adapters whose matrices are kept, each as large as the adapter: those that have been alone last. */
const MAX_KEPT = 4
/** Beyond so many tokens in a run, multiplying by the zeros of the diagonal costs more than the nodes that it spares. */
export const MAX_SHARED_TOKENS = 32

type Feeds = Readonly<Record<string, Tensor>>

export class Alone {
  readonly session: Session
  readonly #sites: readonly Site[]
  /** The one that was alone last comes last. */
  readonly #kept = new Map<Packed, Feeds>()
  #last: Packed | undefined
  #steps = 0

  constructor(session: Session, sites: readonly Site[]) {
    this.session = session
    this.#sites = sites
  }

  /** To be asked at each step that one adapter is alone in; undefined where it has not been for long. */
  feeds(packed: Packed): Feeds | undefined {
    this.#steps = packed === this.#last ? this.#steps + 1 : 1
    this.#last = packed
    let feeds = this.#kept.get(packed)
    if (feeds === undefined && this.#steps <= STEADY_STEPS) return undefined
    feeds ??= this.#make(packed)
    this.#kept.delete(packed)
    this.#kept.set(packed, feeds)
    const [oldest] = this.#kept.keys()
    if (this.#kept.size > MAX_KEPT && oldest !== undefined) this.#kept.delete(oldest)
    return feeds
  }

  #make(packed: Packed): Feeds {
    return Object.fromEntries(
      this.#sites.flatMap(({ name, linears }, at): [string, Tensor][] => {
        const { r, A, B } = packed.sites[at]!
        const ranks = linears.length * r
        const out = linears.reduce((sum, linear) => sum + linear.out, 0)
        return [
          [graphNames.sharedA(name), { data: A, dims: [linears[0]!.in, ranks] }],
          [graphNames.sharedB(name), { data: linears.length === 1 ? B[0]! : diagonal(B, r), dims: [ranks, out] }],
        ]
      }),
    )
  }
}

/** Matrices of r lines each on the diagonal of one. */
function diagonal(parts: readonly Float32Array[], r: number): Float32Array {
  const width = parts.reduce((sum, part) => sum + part.length / r, 0)
  const whole = new Float32Array(parts.length * r * width)
  let column = 0
  for (const [index, matrix] of parts.entries()) {
    const line = matrix.length / r
    const target = whole.subarray(index * r * width, (index + 1) * r * width)
    copyColumns({ matrix, line, at: 0 }, { matrix: target, line: width, at: column }, line)
    column += line
  }
  return whole
}
