// What joins the pruned tensors of several adapters: the plain sum, or TIES (Yadav et al., "TIES-Merging", 2023).

export type MajoritySign = 'total' | 'frequency'

/** Σᵢ wᵢ·tᵢ, entry by entry, in double, rounded once. */
export function sum(tensors: readonly Float32Array[], weights: readonly number[]): Float32Array {
  return mix(tensors, (entries) => {
    let total = 0
    for (let i = 0; i < entries.length; i += 1) total += (weights[i] as number) * (entries[i] as number)
    return total
  })
}

/**
 * Elects the sign of each entry, then takes the mean of the weighted entries that agree with it:
 *     γ = sign of Σᵢ vᵢ·tᵢ (`total`) or of Σᵢ sign(vᵢ·tᵢ) (`frequency`), and + where that is 0;
 *     t' = Σ {wᵢ·tᵢ : sign(vᵢ·tᵢ) = γ} / max(1, their number).
 * A zero never agrees. The votes are vᵢ = wᵢ, so that an adapter of negative weight votes for what it will add; PEFT
 * votes before weighting, vᵢ = 1 (`unweighted`), which is the same where all weights are positive and equal.
 */
export function ties(
  tensors: readonly Float32Array[],
  weights: readonly number[],
  method: MajoritySign,
  vote: 'weighted' | 'unweighted',
): Float32Array {
  const votes = weights.map((weight) => (vote === 'weighted' ? weight : 1))
  return mix(tensors, (entries) => {
    let poll = 0
    for (let i = 0; i < entries.length; i += 1) {
      const cast = (votes[i] as number) * (entries[i] as number)
      poll += method === 'total' ? cast : Math.sign(cast)
    }
    const elected = poll >= 0 ? 1 : -1
    let total = 0
    let agreeing = 0
    for (let i = 0; i < entries.length; i += 1) {
      const entry = entries[i] as number
      if (Math.sign((votes[i] as number) * entry) !== elected) continue
      total += (weights[i] as number) * entry
      agreeing += 1
    }
    return total / Math.max(1, agreeing)
  })
}

/** `join` gets the entries of one place, one a tensor, in an array that it must not keep. */
function mix(tensors: readonly Float32Array[], join: (entries: Float64Array) => number): Float32Array {
  const entries = new Float64Array(tensors.length)
  const result = new Float32Array(tensors[0]?.length ?? 0)
  for (let at = 0; at < result.length; at += 1) {
    for (let i = 0; i < tensors.length; i += 1) entries[i] = (tensors[i] as Float32Array)[at] as number
    result[at] = join(entries)
  }
  return result
}
