// From logits to a token: distribution, nucleus, determinism, hostile numbers.
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { randomFrom } from '../../gpu-backend/engine/random.ts'
import { createSampler } from '../../gpu-backend/engine/sampler.ts'

const of = (...logits: number[]): Float32Array => Float32Array.from(logits)

function frequencies(logits: Float32Array, sampling: { temperature: number; topP: number }, draws: number): number[] {
  const sample = createSampler({ ...sampling, seed: 7 })
  const counts = Array<number>(logits.length).fill(0)
  for (let draw = 0; draw < draws; draw++) counts[sample(logits)]! += 1
  return counts.map((count) => count / draws)
}

describe('greedy', () => {
  test('takes the largest logit, and the smallest id among equals', () => {
    const sample = createSampler({ temperature: 0, topP: 1, seed: 1 })
    expect(sample(of(-3, 2, 2, 1))).toBe(1)
    expect(sample(of(-3, -2, -9))).toBe(1)
  })

  test('ignores top_p and the seed', () => {
    for (const seed of [0, 1, -5]) expect(createSampler({ temperature: 0, topP: 0.1, seed })(of(1, 5, 2))).toBe(1)
  })
})

describe('temperature', () => {
  test('draws in proportion to exp(logit / temperature)', () => {
    const [a, b, c] = frequencies(of(Math.log(1), Math.log(3), Math.log(6)), { temperature: 1, topP: 1 }, 20_000)
    expect(a).toBeCloseTo(0.1, 1.7)
    expect(b).toBeCloseTo(0.3, 1.7)
    expect(c).toBeCloseTo(0.6, 1.7)
    const [half] = frequencies(of(Math.log(1), Math.log(3)), { temperature: 0.5, topP: 1 }, 20_000)
    expect(half).toBeCloseTo(0.1, 1.7)
  })

  test('as low as it can be is greedy, and large logits do not overflow', () => {
    expect(createSampler({ temperature: Number.MIN_VALUE, topP: 1, seed: 3 })(of(1, 1.5, 1.2))).toBe(1)
    expect(createSampler({ temperature: 2, topP: 1, seed: 3 })(of(3e38, -3e38))).toBe(0)
  })
})

describe('top_p', () => {
  const logits = of(Math.log(0.5), Math.log(0.3), Math.log(0.15), Math.log(0.05))

  test('keeps the fewest tokens that reach it, and their proportions', () => {
    const found = frequencies(logits, { temperature: 1, topP: 0.75 }, 20_000)
    expect(found[0]).toBeCloseTo(0.625, 1.7)
    expect(found[1]).toBeCloseTo(0.375, 1.7)
    expect(found.slice(2)).toEqual([0, 0])
  })

  test('below the most probable token keeps that one', () => {
    expect(frequencies(logits, { temperature: 1, topP: 1e-12 }, 100)).toEqual([1, 0, 0, 0])
  })

  test('of 1 keeps every token', () => {
    expect(frequencies(logits, { temperature: 1, topP: 1 }, 20_000).every((share) => share > 0)).toBe(true)
  })

  test('cuts equals by id, so that the same ones are kept everywhere', () => {
    const found = frequencies(of(0, 0, 0, 0), { temperature: 1, topP: 0.5 }, 1_000)
    expect(found.map((share) => share > 0)).toEqual([true, true, false, false])
  })

  test('never leaves the nucleus of a plain computation (property)', () => {
    fc.assert(
      fc.property(
        // On a grid: logits closer than the last bit of a weight are in an order that either computation may see alone.
        fc.array(fc.integer({ min: -2_000, max: 2_000 }), { minLength: 1, maxLength: 50 }),
        fc.double({ min: 0.01, max: 0.99, noNaN: true }),
        fc.integer(),
        (steps, topP, seed) => {
          const values = Float32Array.from(steps, (value) => value / 128)
          const weights = Array.from(values, (value, id) => ({ id, weight: Math.exp(value) }))
          weights.sort((a, b) => b.weight - a.weight || a.id - b.id)
          const total = weights.reduce((sum, { weight }) => sum + weight, 0)
          let mass = 0
          const nucleus = weights.filter(({ weight }) => {
            const inside = mass < (topP + 1e-9) * total
            mass += weight
            return inside
          })
          const token = createSampler({ temperature: 1, topP, seed })(values)
          expect(nucleus.map(({ id }) => id)).toContain(token)
        },
      ),
    )
  })
})

describe('non-finite logits', () => {
  test.each([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])('%s is an error', (bad) => {
    for (const temperature of [0, 1]) {
      const sample = createSampler({ temperature, topP: 0.9, seed: 1 })
      expect(() => sample(of(1, bad, 2))).toThrow('row produced non-finite logits')
    }
  })
})

describe('seed', () => {
  test('the same seed draws the same tokens, another seed others', () => {
    const logits = Float32Array.from({ length: 100 }, (_, id) => Math.sin(id))
    const draw = (seed: number): number[] => {
      const sample = createSampler({ temperature: 1, topP: 0.95, seed })
      return Array.from({ length: 20 }, () => sample(logits))
    }
    expect(draw(42)).toEqual(draw(42))
    expect(draw(42)).not.toEqual(draw(43))
    expect(draw(5)).not.toEqual(draw(5 + 2 ** 32))
    expect(draw(-1)).not.toEqual(draw(1))
  })

  test('the sequence is fixed: a later version must not change what a seed means', () => {
    const random = randomFrom(1234)
    expect([random(), random(), random()]).toMatchInlineSnapshot(`
      [
        0.3472551311268274,
        0.09774356174489252,
        0.015824189176246617,
      ]
    `)
  })

  test('numbers are uniform in [0, 1)', () => {
    const random = randomFrom(99)
    const buckets = Array<number>(10).fill(0)
    for (let draw = 0; draw < 10_000; draw++) buckets[Math.floor(random() * 10)]! += 1
    for (const count of buckets) expect(Math.abs(count - 1_000)).toBeLessThan(150)
  })
})
