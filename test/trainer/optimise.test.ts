// AdamW, clipping and the schedules, against figures worked out by hand.
import { describe, expect, it } from 'vitest'
import { ADAM_DEFAULTS, clipGradient, stepAdamW } from '../../trainer/optimise/adamw.ts'
import { rateAt } from '../../trainer/optimise/schedule.ts'

describe('AdamW', () => {
  const moments = () => ({
    parameters: Float32Array.of(1, -2, 3),
    first: new Float32Array(3),
    second: new Float32Array(3),
  })
  const groups = [
    { start: 0, end: 2, rate: 1 },
    { start: 2, end: 3, rate: 16 },
  ]

  it('moves by the learning rate against the sign of the gradient in its first step, and by the ratio of LoRA+ in B', () => {
    const all = moments()
    stepAdamW(all, Float32Array.of(5, -0.01, 7), groups, 0.01, 1, ADAM_DEFAULTS)
    expect(all.parameters[0]).toBeCloseTo(0.99, 6)
    expect(all.parameters[1]).toBeCloseTo(-1.99, 5)
    expect(all.parameters[2]).toBeCloseTo(3 - 0.16, 6)
  })

  it('decays by its own factor, apart from the gradient', () => {
    const all = moments()
    stepAdamW(all, new Float32Array(3), groups, 0.1, 1, { ...ADAM_DEFAULTS, weightDecay: 0.5 })
    expect(Array.from(all.parameters)).toEqual([1 * 0.95, -2 * 0.95, 3 * (1 - 1.6 * 0.5)].map(Math.fround))
    expect(all.first.every((x) => x === 0)).toBe(true)
  })

  it('has the moments of the definition after two steps', () => {
    const all = moments()
    for (const step of [1, 2]) stepAdamW(all, Float32Array.of(step, 0, 0), groups, 1e-3, step, ADAM_DEFAULTS)
    expect(all.first[0]).toBeCloseTo(0.9 * 0.1 + 0.1 * 2, 7)
    expect(all.second[0]).toBeCloseTo(0.999 * 0.001 + 0.001 * 4, 9)
  })
})

describe('clipping', () => {
  it('leaves a gradient within the norm as it is, and scales a larger one down to it', () => {
    const small = Float32Array.of(0.3, 0.4)
    expect(clipGradient(small, 1)).toBeCloseTo(0.5, 6)
    expect(Array.from(small)).toEqual([0.3, 0.4].map(Math.fround))
    const large = Float32Array.of(3, 4)
    expect(clipGradient(large, 1)).toBe(5)
    expect(Math.hypot(...large)).toBeCloseTo(1, 5)
  })
})

describe('a schedule', () => {
  const of = (kind: 'cosine' | 'linear' | 'constant', step: number, floor = 0) =>
    rateAt({ kind, learningRate: 2, warmUpSteps: 4, steps: 104, floor }, step)

  it.each(['cosine', 'linear', 'constant'] as const)('warms up in equal steps, the first above 0: %s', (kind) => {
    expect([0, 1, 2, 3, 4].map((step) => of(kind, step))).toEqual([0.5, 1, 1.5, 2, 2])
  })

  it('goes down by half a cosine, a line, or not at all', () => {
    expect(of('cosine', 54)).toBeCloseTo(1, 12)
    expect(of('linear', 79)).toBeCloseTo(0.5, 12)
    expect(of('constant', 103)).toBe(2)
    expect(of('cosine', 104)).toBeCloseTo(0, 12)
    expect(of('linear', 104, 0.1)).toBeCloseTo(0.2, 12)
  })
})
