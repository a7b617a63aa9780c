// Inner products of deltas from their factors.
import type { Part } from './input.ts'

/**
 * ⟨ΔWᵢ, ΔWⱼ⟩ = sᵢ·sⱼ·tr((BᵢAᵢ)ᵀ·BⱼAⱼ) = sᵢ·sⱼ·Σₐᵦ (Bᵢᵀ·Bⱼ)ₐᵦ·(Aᵢ·Aⱼᵀ)ₐᵦ: two matrices of rᵢ × rⱼ instead of two of
 * out × in. In double. The result is row-major, parts × parts, without the weights.
 */
export function gramOfDeltas(parts: readonly Part[]): Float64Array {
  const n = parts.length
  const gram = new Float64Array(n * n)
  for (let i = 0; i < n; i += 1) {
    for (let j = i; j < n; j += 1) {
      const product = innerProduct(parts[i] as Part, parts[j] as Part)
      gram[i * n + j] = product
      gram[j * n + i] = product
    }
  }
  return gram
}

function innerProduct(p: Part, q: Part): number {
  let total = 0
  for (let a = 0; a < p.r; a += 1) {
    for (let b = 0; b < q.r; b += 1) {
      let ofA = 0
      for (let k = 0; k < p.in; k += 1) ofA += (p.A[a * p.in + k] as number) * (q.A[b * p.in + k] as number)
      let ofB = 0
      for (let k = 0; k < p.out; k += 1) ofB += (p.B[k * p.r + a] as number) * (q.B[k * q.r + b] as number)
      total += ofA * ofB
    }
  }
  return p.scaling * q.scaling * total
}
