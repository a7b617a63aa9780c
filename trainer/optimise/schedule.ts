// The learning rate of each step: a linear warm-up, then one of three ways down.

export const SCHEDULES = ['cosine', 'linear', 'constant'] as const

export interface Schedule {
  readonly kind: (typeof SCHEDULES)[number]
  readonly learningRate: number
  readonly warmUpSteps: number
  readonly steps: number
  /** Share of the rate that cosine and linear end at. */
  readonly floor: number
}

/** `step`: 0 for the first. The first step of a warm-up of n has 1/n of the rate, never 0. */
export function rateAt({ kind, learningRate, warmUpSteps, steps, floor }: Schedule, step: number): number {
  if (step < warmUpSteps) return (learningRate * (step + 1)) / warmUpSteps
  const done = Math.min(1, (step - warmUpSteps) / Math.max(1, steps - warmUpSteps))
  const left = kind === 'constant' ? 1 : kind === 'linear' ? 1 - done : (1 + Math.cos(Math.PI * done)) / 2
  return learningRate * (floor + (1 - floor) * left)
}
