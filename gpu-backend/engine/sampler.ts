// From the logits of one row to its next token. In fp64, and of this row alone.
import { nonFinite } from './non-finite.ts'
import { randomFrom } from './random.ts'

export interface Sampling {
  /** 0 is greedy: the smallest id among the largest logits. */
  readonly temperature: number
  /** (0, 1]; 1 keeps every token. */
  readonly topP: number
  readonly seed: number
  /** Taken once from the logit of every token that the row has produced. */
  readonly presencePenalty?: number | undefined
  /** Taken for each time that the row has produced the token. */
  readonly frequencyPenalty?: number | undefined
  /** Token ids, and what is added to their logits. */
  readonly logitBias?: readonly (readonly [id: number, bias: number])[] | undefined
}

/** One bit a token, the lowest first; a token whose bit is 0 cannot be drawn. */
export type Allowed = Int32Array

export type Sampler = (logits: Float32Array, allowed?: Allowed) => number

type Numbers = Float32Array | Float64Array

/** Each call draws once from the request's own sequence. Throws `non_finite_logits`. */
export function createSampler(sampling: Sampling): Sampler {
  const { temperature, topP, seed, presencePenalty = 0, frequencyPenalty = 0, logitBias = [] } = sampling
  const random = randomFrom(seed)
  const counts = new Map<number, number>()
  const plain = presencePenalty === 0 && frequencyPenalty === 0 && logitBias.length === 0

  /** x + bias − frequency · count − presence · [count > 0], as in OpenAI's documentation; of tokens that were produced only. */
  function adjust(logits: Float32Array, allowed: Allowed | undefined): Numbers {
    if (plain && allowed === undefined) return logits
    const adjusted = Float64Array.from(logits)
    for (const [id, bias] of logitBias) adjusted[id]! += bias
    for (const [id, count] of counts) adjusted[id]! -= frequencyPenalty * count + presencePenalty
    if (allowed !== undefined) {
      for (let id = 0; id < adjusted.length; id++) {
        if (((allowed[id >> 5] ?? 0) & (1 << (id & 31))) === 0) adjusted[id] = Number.NEGATIVE_INFINITY
      }
    }
    return adjusted
  }

  function choose(logits: Numbers): number {
    if (temperature === 0) return argmax(logits)
    const weights = softmaxWeights(logits, temperature)
    return topP < 1 ? drawNucleus(weights, topP, random()) : draw(weights, sum(weights), random())
  }

  return (logits, allowed) => {
    checkFinite(logits)
    const id = choose(adjust(logits, allowed))
    if (!plain) counts.set(id, (counts.get(id) ?? 0) + 1)
    return id
  }
}

/** x·0 is 0 of every finite number and NaN of the others, and their sum so too: no branch for each of a whole vocabulary. */
function checkFinite(logits: Float32Array): void {
  let sum = 0
  for (let id = 0; id < logits.length; id++) sum += logits[id]! * 0
  if (sum !== 0) throw nonFinite()
}

function argmax(logits: Numbers): number {
  let best = 0
  let most = logits[0]!
  for (let id = 1; id < logits.length; id++) {
    const logit = logits[id]!
    if (logit > most) {
      most = logit
      best = id
    }
  }
  return best
}

/** exp((x - max x) / temperature): in [0, 1], and at least one of them is 1. */
function softmaxWeights(logits: Numbers, temperature: number): Float64Array {
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
