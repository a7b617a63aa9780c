// The bank of a routed model.onnx: for every linear, the factors of all resident adapters, of which each row picks by slot.
// An encoder runs whole batches of texts, where that costs little beside the rest; decoders step on engine/bank.ts.
import { graphNames, type Linear } from '../../compiler/contract.ts'
import type { Tensor } from '../../runtime/session.ts'
import type { Factors } from '../engine/packed.ts'
import { BackendError } from '../errors.ts'

/** Factors as they came from the store, and what they take. */
export interface HeldFactors extends Factors {
  readonly bytes: number
}

export function hold(factors: Factors): HeldFactors {
  let bytes = 0
  for (const { A, B } of factors.modules.values()) bytes += A.byteLength + B.byteLength
  return { ...factors, bytes }
}

interface Place {
  readonly linear: Linear
  /** [K, in, R] */
  readonly A: Float32Array
  /** [K, R, out] */
  readonly B: Float32Array
}

export class SlotBank {
  readonly rank: number
  readonly feeds: Readonly<Record<string, Tensor>>
  /** For a batch of base rows alone: one slot of rank 1, all zeros, which is the same nothing and costs almost nothing. */
  readonly baseFeeds: Readonly<Record<string, Tensor>>
  readonly #places: ReadonlyMap<string, Place>

  /** `slots` counts slot 0, which stays zero: x·0·0 adds nothing to the base. */
  constructor(linears: readonly Linear[], slots: number, rank: number) {
    this.rank = rank
    this.#places = new Map(
      linears.map((linear) => [
        linear.module,
        {
          linear,
          A: new Float32Array(slots * linear.in * rank),
          B: new Float32Array(slots * rank * linear.out),
        },
      ]),
    )
    this.feeds = feedsOf([...this.#places.values()], slots, rank)
    this.baseFeeds = feedsOf(
      linears.map((linear) => ({ linear, A: new Float32Array(linear.in), B: new Float32Array(linear.out) })),
      1,
      1,
    )
  }

  /** Throws `adapter_refused`, having written nothing, when the adapter does not fit. */
  check({ digest, modules }: Factors): void {
    for (const [module, { A, B, r }] of modules) {
      const place = this.#places.get(module)
      if (place === undefined) throw refused(digest, `changes "${module}", which has no place in the bank`)
      if (r > this.rank) {
        throw refused(
          digest,
          `has r=${r} at "${module}"; the bank holds r=${this.rank} at most; start with bankRank ${r}`,
        )
      }
      const { in: inputs, out } = place.linear
      if (A.length !== inputs * r || B.length !== r * out)
        throw refused(digest, `has factors of a wrong size at "${module}"`)
    }
  }

  /** Zeros the slot, then copies: what the last adapter left must not shine through where this one is narrower. */
  write(slot: number, factors: Factors): void {
    if (slot === 0) throw new Error('sidepath bug: slot 0 is the base and is never written')
    this.check(factors)
    const R = this.rank
    for (const [module, { linear, A, B }] of this.#places) {
      const [startA, startB] = [slot * linear.in * R, slot * R * linear.out]
      A.fill(0, startA, startA + linear.in * R)
      B.fill(0, startB, startB + R * linear.out)
      const given = factors.modules.get(module)
      if (given === undefined) continue
      const { r } = given
      for (let i = 0; i < linear.in; i++) A.set(given.A.subarray(i * r, (i + 1) * r), startA + i * R)
      B.set(given.B, startB)
    }
  }
}

function feedsOf(places: readonly Place[], slots: number, rank: number): Record<string, Tensor> {
  return Object.fromEntries(
    places.flatMap(({ linear, A, B }): [string, Tensor][] => [
      [graphNames.bankA(linear.module), { data: A, dims: [slots, linear.in, rank] }],
      [graphNames.bankB(linear.module), { data: B, dims: [slots, rank, linear.out] }],
    ]),
  )
}

function refused(digest: string, what: string): BackendError {
  return new BackendError('adapter_refused', `adapter ${digest.slice(0, 12)} ${what}`)
}
