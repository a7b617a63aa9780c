// What the factors begin as.
//
//   default   A ~ U(−1/√in, 1/√in), B = 0: Kaiming's uniform with a = √5, as PEFT has it, so that s·B·A = 0
//   pissa     W ≈ U·S·Vᵀ to rank r: A₀ = √(S/s)·Vᵀ, B₀ = U·√(S/s), so that s·B₀·A₀ is the leading part of W
//
// PiSSA: arXiv:2404.02948. Factors are held as the graph has them, A [in, r] and B [r, out].
import { leadingTriplets } from '../../compiler/combine/block-lanczos.ts'
import { stream } from '../../compiler/combine/threefry.ts'
import type { LoraModuleSpec } from './spec.ts'

export interface Factors {
  readonly A: Float32Array
  readonly B: Float32Array
}

/** The numbers hang on the seed and the module's name alone, not on which other modules there are. */
export function drawFactors({ linear, r }: LoraModuleSpec, seed: number): Factors {
  const { module, in: inSize, out } = linear
  const bound = 1 / Math.sqrt(inSize)
  const numbers = stream(seed, `lora_A/${module}`)(inSize * r)
  return { A: Float32Array.from(numbers, (x) => bound * (2 * x - 1)), B: new Float32Array(r * out) }
}

/** `W`: [out, in], row-major. Of a rank below r the rest of the factors is zeros. */
export function principalFactors({ linear, r, scaling }: LoraModuleSpec, W: Float32Array): Factors {
  const { in: inSize, out } = linear
  const { values, left, right } = leadingTriplets(W, out, inSize, r)
  const A = new Float32Array(inSize * r)
  const B = new Float32Array(r * out)
  values.forEach((value, k) => {
    const root = Math.sqrt(value / scaling)
    for (let i = 0; i < inSize; i += 1) A[i * r + k] = root * (right[k]?.[i] as number)
    for (let o = 0; o < out; o += 1) B[k * out + o] = root * (left[k]?.[o] as number)
  })
  return { A, B }
}
