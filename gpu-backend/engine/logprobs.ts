// Log-probabilities of tokens: of the model itself, before penalties, biases, temperature and nucleus.

export interface TokenLogprob {
  readonly id: number
  /** Natural logarithm. */
  readonly logprob: number
  /** The most probable tokens, most probable first and smaller ids first among equals. */
  readonly top: readonly (readonly [id: number, logprob: number])[]
}

/** x[id] − max x − log Σ exp(x − max x), in fp64; `logits` are finite. */
export function logprobOf(logits: Float32Array, id: number, topCount: number): TokenLogprob {
  let max = Number.NEGATIVE_INFINITY
  for (const logit of logits) max = Math.max(max, logit)
  let total = 0
  for (const logit of logits) total += Math.exp(logit - max)
  const shift = max + Math.log(total)
  return {
    id,
    logprob: logits[id]! - shift,
    top: largest(logits, topCount).map((token) => [token, logits[token]! - shift] as const),
  }
}

/** Insertion into a short list: `count` is at most 20, and after the first tokens few pass the comparison. */
function largest(logits: Float32Array, count: number): number[] {
  const ids: number[] = []
  if (count === 0) return ids
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id]!
    if (ids.length === count && logit <= logits[ids[count - 1]!]!) continue
    let at = ids.length
    while (at > 0 && logit > logits[ids[at - 1]!]!) at -= 1
    ids.splice(at, 0, id)
    if (ids.length > count) ids.pop()
  }
  return ids
}
