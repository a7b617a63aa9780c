// The methods that prune A and B themselves: magnitude_prune, ties, dare_linear, dare_ties, and PEFT's linear.
import { inputError, quote } from '../errors.ts'
import type { Combined } from './combined.ts'
import { concatenate, shares } from './exact.ts'
import type { Part } from './input.ts'
import type { Recipe } from './options.ts'
import { prune } from './prune.ts'
import { sum, ties } from './ties.ts'

/**
 * Σ wᵢ·sᵢ·prune(Bᵢ)·prune(Aᵢ), concatenated: every adapter's factors are pruned, their products are summed without
 * cross terms, and ranks may differ. With DARE the two masks are independent, so E[prune(Bᵢ)·prune(Aᵢ)] = Bᵢ·Aᵢ.
 */
export function sumPruned(parts: readonly [Part, ...Part[]], recipe: Recipe, module: string): Combined {
  const [first, ...others] = parts
  const pruned = (part: Part) => ({ ...part, ...prunedFactors(part, recipe, module) })
  return { factors: concatenate([pruned(first), ...others.map(pruned)], shares(parts)) }
}

/**
 * PEFT's form: A' = join of √|wᵢsᵢ|·sign(wᵢsᵢ)·prune(Aᵢ), B' = join of √|wᵢsᵢ|·prune(Bᵢ), where the join is a sum or
 * TIES with an unweighted vote. B'·A' has the cross terms Bᵢ·Aⱼ. All ranks must be equal.
 *
 * TIES has no form without them: to vote entry by entry on factors is what joins Aᵢ with Bⱼ, and it depends on the
 * basis that each adapter happens to have (B·M, M⁻¹·A is the same adapter). ties_svd and dare_ties_svd vote on deltas.
 */
export function joinFactors(
  parts: readonly [Part, ...Part[]],
  recipe: Recipe,
  elect: boolean,
  module: string,
): Combined {
  const [{ r, in: columns, out }] = parts
  if (parts.some((part) => part.r !== r)) {
    const found = parts.map((part) => `${quote(part.adapter)} has r=${part.r}`).join(', ')
    throw inputError(
      'adapter-rank',
      `${module}: ${recipe.method} adds factors entry by entry and needs equal ranks, but ${found}; use ` +
        `${elect ? `${recipe.method}_svd` : 'exact or svd'}`,
    )
  }
  const pruned = parts.map((part) => prunedFactors(part, recipe, module))
  const ofB = shares(parts).map((share) => Math.sqrt(Math.abs(share)))
  const ofA = shares(parts).map((share, i) => (share >= 0 ? 1 : -1) * (ofB[i] as number))
  const join = (tensors: Float32Array[], weights: number[]) =>
    elect ? ties(tensors, weights, recipe.majoritySign ?? 'total', 'unweighted') : sum(tensors, weights)
  const A = join(
    pruned.map((factors) => factors.A),
    ofA,
  )
  const B = join(
    pruned.map((factors) => factors.B),
    ofB,
  )
  return { factors: { A, B, r, in: columns, out } }
}

function prunedFactors(part: Part, recipe: Recipe, module: string): { A: Float32Array; B: Float32Array } {
  return {
    A: prune(part.A, part.in, 'lora_A', part, module, recipe),
    B: prune(part.B, part.r, 'lora_B', part, module, recipe),
  }
}
