// How far two sets of logits are apart: absolute error, KL divergence, agreement of the most probable token.

export interface Difference {
  /** Positions that were compared. */
  readonly positions: number
  /** Over all logits; infinite where one is not finite. */
  readonly maxError: number
  readonly meanError: number
  /** Largest KL(softmax(reference) ‖ softmax(subject)) of a position, in nats. */
  readonly maxKl: number
  /** Share of positions whose largest logit is that of the same token. */
  readonly top1: number
  /** Largest |logit| of the reference. */
  readonly magnitude: number
}

/** Adds up over probes. All arithmetic is in double. */
export class Tally {
  #positions = 0
  #logits = 0
  #max = 0
  #sum = 0
  #kl = 0
  #agreed = 0
  #magnitude = 0

  /** Both hold whole rows of `vocabSize` logits, position by position; where one has more, nothing is near. */
  add(subject: Float32Array, reference: Float32Array, vocabSize: number): void {
    if (subject.length !== reference.length) {
      this.#max = Number.POSITIVE_INFINITY
      this.#kl = Number.POSITIVE_INFINITY
      return
    }
    for (let at = 0; at < reference.length; at += vocabSize) {
      this.#addRow(subject.subarray(at, at + vocabSize), reference.subarray(at, at + vocabSize))
    }
  }

  difference(): Difference {
    return {
      positions: this.#positions,
      maxError: this.#max,
      meanError: this.#sum / this.#logits,
      maxKl: this.#kl,
      top1: this.#agreed / this.#positions,
      magnitude: this.#magnitude,
    }
  }

  #addRow(subject: Float32Array, reference: Float32Array): void {
    for (let i = 0; i < reference.length; i += 1) {
      const value = reference[i] as number
      const error = Math.abs((subject[i] as number) - value)
      // NaN fails every comparison, so it is asked for by name.
      this.#max = Number.isFinite(error) ? Math.max(this.#max, error) : Number.POSITIVE_INFINITY
      this.#sum += error
      this.#magnitude = Math.max(this.#magnitude, Math.abs(value))
    }
    const kl = divergence(reference, subject)
    this.#kl = Number.isFinite(kl) ? Math.max(this.#kl, kl) : Number.POSITIVE_INFINITY
    this.#agreed += argMax(subject) === argMax(reference) ? 1 : 0
    this.#positions += 1
    this.#logits += reference.length
  }
}

/**
 * KL(p ‖ q) = Σ pᵢ·φ(zᵢ) with zᵢ = log(qᵢ / pᵢ) and φ(z) = eᶻ − 1 − z ≥ 0. It equals Σ pᵢ·(−zᵢ), because p and q both
 * sum to 1, but has no cancellation: −Σ pᵢ·zᵢ of nearly equal p and q is all rounding.
 */
export function divergence(p: Float32Array, q: Float32Array): number {
  const [logP, logQ] = [logSum(p), logSum(q)]
  let sum = 0
  for (let i = 0; i < p.length; i += 1) {
    const log = (p[i] as number) - logP
    const z = (q[i] as number) - logQ - log
    sum += Math.exp(log) * (Math.abs(z) < 1e-3 ? z * z * (1 / 2 + z / 6) : Math.expm1(z) - z)
  }
  return sum
}

function logSum(logits: Float32Array): number {
  let max = Number.NEGATIVE_INFINITY
  for (const logit of logits) max = Math.max(max, logit)
  let sum = 0
  for (const logit of logits) sum += Math.exp(logit - max)
  return max + Math.log(sum)
}

function argMax(logits: Float32Array): number {
  let best = 0
  for (let i = 1; i < logits.length; i += 1) if ((logits[i] as number) > (logits[best] as number)) best = i
  return best
}
