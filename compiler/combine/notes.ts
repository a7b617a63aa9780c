// What a reader of a method's name might not expect of its numbers.
import { METHODS, type MethodParts, type Recipe } from './options.ts'

export function notesOn({ method, peftCompat, rank }: Recipe, adapters: number): string[] {
  const { form, prune, elect }: MethodParts = METHODS[method]
  const compat = peftCompat !== false
  const notes: string[] = []
  if (compat && adapters === 1 && method !== 'exact' && method !== 'cat' && method !== 'linear') {
    return [`peft-compat: PEFT turns ${method} into linear where one adapter is given: nothing is pruned or compressed`]
  }
  if (compat && adapters > 1 && (method === 'linear' || (form === 'factors' && elect === undefined))) {
    notes.push(
      `peft-compat: ${method} adds A and B separately, each times √|weight·scaling|, so the result has the cross terms ` +
        'Bᵢ·Aⱼ between adapters, which no adapter was trained for',
    )
  }
  if (form === 'factors' && elect && adapters > 1) {
    notes.push(
      `${method} votes on the entries of A and of B, as PEFT does: it has the cross terms Bᵢ·Aⱼ and depends on the ` +
        `basis of each adapter's factors; ${method}_svd votes on the deltas`,
    )
  }
  if (compat && form === 'deltas' && elect) {
    notes.push(
      'peft-compat: signs are elected before the weights, so an adapter of negative weight votes for what it takes away',
    )
  }
  if (peftCompat === '0.20' && (method === 'svd' || form === 'deltas')) {
    notes.push(
      'peft-compat: PEFT up to 0.20 applied the scaling twice in svd and *_svd, lora_alpha/r squared; 0.21 no longer does',
    )
  }
  if (compat && prune === 'random') {
    notes.push(
      "peft-compat: PEFT draws its masks from torch's global generator; these come from the seed, so the numbers differ",
    )
  }
  if (method === 'slerp' || method === 'karcher') {
    notes.push(`${method} divides the weights by their sum: they say how far along the way, not how strong`)
    if (rank === undefined && adapters > 1)
      notes.push(`${method} keeps the whole span, so the ranks add up; give a rank to compress`)
  }
  return notes
}
