// AdamW on the host, beside the graph: the trained numbers are few, and so gradients can be summed over several runs.
//
//   m ← β₁·m + (1 − β₁)·g        v ← β₂·v + (1 − β₂)·g²
//   p ← p·(1 − η·λ) − η·(m/(1 − β₁ᵗ)) / (√(v/(1 − β₂ᵗ)) + ε)
//
// Loshchilov and Hutter, arXiv:1711.05101: the decay λ is decoupled, no part of g. Computed in double, stored in fp32.

export interface AdamOptions {
  readonly beta1: number
  readonly beta2: number
  readonly epsilon: number
  readonly weightDecay: number
}

export const ADAM_DEFAULTS: AdamOptions = { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weightDecay: 0 }

/** Numbers that learn at the same rate: η times `rate` (LoRA+ gives B another than A). */
export interface Group {
  readonly start: number
  readonly end: number
  readonly rate: number
}

/** What is trained and its moments, flat. */
export interface Moments {
  readonly parameters: Float32Array
  readonly first: Float32Array
  readonly second: Float32Array
}

/** In place. `step`: 1 for the first. */
export function stepAdamW(
  { parameters, first, second }: Moments,
  gradient: Float32Array,
  groups: readonly Group[],
  learningRate: number,
  step: number,
  { beta1, beta2, epsilon, weightDecay }: AdamOptions,
): void {
  const correction1 = 1 - beta1 ** step
  const correction2 = Math.sqrt(1 - beta2 ** step)
  for (const { start, end, rate } of groups) {
    const eta = learningRate * rate
    const keep = 1 - eta * weightDecay
    const size = eta / correction1
    for (let i = start; i < end; i += 1) {
      const g = gradient[i] as number
      const m = beta1 * (first[i] as number) + (1 - beta1) * g
      const v = beta2 * (second[i] as number) + (1 - beta2) * g * g
      first[i] = m
      second[i] = v
      parameters[i] = (parameters[i] as number) * keep - (size * m) / (Math.sqrt(v) / correction2 + epsilon)
    }
  }
}

/** Scales the gradient, in place, to a norm of at most `most`, and gives the norm that it had. As torch does. */
export function clipGradient(gradient: Float32Array, most: number | undefined): number {
  let sum = 0
  for (let i = 0; i < gradient.length; i += 1) sum += (gradient[i] as number) ** 2
  const norm = Math.sqrt(sum)
  if (most !== undefined && norm > most) {
    const factor = most / (norm + 1e-6)
    for (let i = 0; i < gradient.length; i += 1) gradient[i] = (gradient[i] as number) * factor
  }
  return norm
}
