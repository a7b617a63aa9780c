// From the logits of one row to its next token. In fp64, and of this row alone.
import { BackendError } from '../errors.ts'
import { randomFrom } from './random.ts'

export interface Sampling {
  /** 0 is greedy: the smallest id among the largest logits. */
  readonly temperature: number
  /** (0, 1]; 1 keeps every token. */
  readonly topP: number
  readonly seed: number
}

export type Sampler = (logits: Float32Array) => number

/** Each call draws once from the request's own sequence. Throws `non_finite_logits`. */
export function createSampler({ temperature, topP, seed }: Sampling): Sampler {
  if (temperature === 0) return argmax
  const random = randomFrom(seed)
  return (logits) => {
    const weights = softmaxWeights(logits, temperature)
    return topP < 1 ? drawNucleus(weights, topP, random()) : draw(weights, sum(weights), random())
  }
}

function argmax(logits: Float32Array): number {
  let best = 0
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]!
    if (!Number.isFinite(logit)) throw nonFinite()
    if (logit > logits[best]!) best = id
  }
  return best
}

/** exp((x - max x) / temperature): in [0, 1], and at least one of them is 1. */
function softmaxWeights(logits: Float32Array, temperature: number): Float64Array {
  const max = logits[argmax(logits)]!
  const weights = new Float64Array(logits.length)
  for (let id = 0; id < logits.length; id++) weights[id] = Math.exp((logits[id]! - max) / temperature)
  return weights
}

function sum(weights: Float64Array): number {
  let total = 0
  for (const weight of weights) total += weight
  return total
}

function draw(weights: Float64Array, total: number, u: number): number {
  let left = u * total
  let last = 0
  for (let id = 0; id < weights.length; id++) {
    const weight = weights[id]!
    if (weight === 0) continue
    if (left < weight) return id
    left -= weight
    last = id
  }
  // Rounding can leave a crumb past the end.
  return last
}

/** The nucleus: the fewest tokens, most probable first and smaller ids first among equals, that reach `topP` together. */
function drawNucleus(weights: Float64Array, topP: number, u: number): number {
  const total = sum(weights)
  // Tokens below (1 - p)/V of the mass cannot sum to 1 - p, so the nucleus lies among the others: few are sorted.
  const floor = ((1 - topP) / weights.length) * total
  const ids: number[] = []
  for (let id = 0; id < weights.length; id++) if (weights[id]! >= floor) ids.push(id)
  ids.sort((a, b) => weights[b]! - weights[a]! || a - b)
  let mass = 0
  let count = 0
  while (count < ids.length && mass < topP * total) mass += weights[ids[count++]!]!
  const chosen = ids.slice(0, Math.max(count, 1))
  let left = u * chosen.reduce((all, id) => all + weights[id]!, 0)
  for (const id of chosen) {
    if (left < weights[id]!) return id
    left -= weights[id]!
  }
  return chosen.at(-1)!
}

function nonFinite(): BackendError {
  return new BackendError('non_finite_logits', 'row produced non-finite logits; the adapter or its scaling is broken')
}
