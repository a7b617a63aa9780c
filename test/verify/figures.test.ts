// The arithmetic of a verification: divergence, tallies, bounds, probes.
import { describe, expect, it } from 'vitest'
import type { Manifest } from '../../compiler/contract.ts'
import { boundsOf } from '../../compiler/verify/bounds.ts'
import { divergence, Tally } from '../../compiler/verify/compare.ts'
import { drawProbes } from '../../compiler/verify/probes.ts'
import { seeded } from '../compiler/random.ts'

const random = seeded(3)
const logits = (count: number, spread: number) => Float32Array.from({ length: count }, () => (random() - 0.5) * spread)

/** Σ p·log(p / q) as it is written. */
function naive(p: Float32Array, q: Float32Array): number {
  const softmax = (row: Float32Array) => {
    const all = [...row].map(Math.exp)
    const sum = all.reduce((total, value) => total + value, 0)
    return all.map((value) => value / sum)
  }
  const [a, b] = [softmax(p), softmax(q)]
  return a.reduce((sum, value, i) => sum + value * Math.log(value / b[i]!), 0)
}

describe('the divergence', () => {
  it('is Σ p·log(p / q) where that can be computed', () => {
    for (let round = 0; round < 20; round += 1) {
      const [p, q] = [logits(50, 8), logits(50, 8)]
      expect(divergence(p, q)).toBeCloseTo(naive(p, q), 10)
    }
  })

  it('is half the variance of a small difference, where the written form is all rounding', () => {
    const p = new Float32Array(64)
    // A step of 2⁻²⁰ on half of 64 equal logits: variance (2⁻²¹)².
    const q = p.map((_, i) => (i % 2 === 0 ? 2 ** -20 : 0))
    expect(divergence(p, q)).toBeCloseTo(2 ** -43, 20)
    expect(divergence(p, q) / 2 ** -43).toBeCloseTo(1, 5)
  })

  it('is 0 of equal rows, and of rows that differ by a constant', () => {
    const p = Float32Array.of(1, 2, 3, 4)
    expect(divergence(p, p)).toBe(0)
    expect(
      divergence(
        p,
        p.map((value) => value + 8),
      ),
    ).toBeCloseTo(0, 12)
  })

  it('never exceeds ε² / 2 where no logit is further off than ε', () => {
    for (let round = 0; round < 200; round += 1) {
      const epsilon = 10 ** (-4 * random())
      const p = logits(30, 10)
      const q = p.map((value) => value + (random() < 0.5 ? -epsilon : epsilon))
      const found = Math.max(...p.map((value, i) => Math.abs(value - q[i]!)))
      expect(divergence(p, q)).toBeLessThanOrEqual((found ** 2 / 2) * (1 + 1e-6))
    }
  })
})

describe('a tally', () => {
  it('counts errors, the largest magnitude and agreement over all rows', () => {
    const tally = new Tally()
    tally.add(Float32Array.of(1, 2, 3, 9, 0, 0), Float32Array.of(1, 2, 4, 0, 8, 0), 3)
    expect(tally.difference()).toMatchObject({ positions: 2, maxError: 9, meanError: 3, top1: 0.5, magnitude: 8 })
  })

  it.each([Number.NaN, Number.POSITIVE_INFINITY])('is infinite where a logit is %s', (value) => {
    for (const [subject, reference] of [
      [Float32Array.of(0, value), new Float32Array(2)],
      [new Float32Array(2), Float32Array.of(0, value)],
    ]) {
      const tally = new Tally()
      tally.add(subject!, reference!, 2)
      expect(tally.difference()).toMatchObject({ maxError: Number.POSITIVE_INFINITY, maxKl: Number.POSITIVE_INFINITY })
    }
  })

  it('is infinite where one has more rows', () => {
    const tally = new Tally()
    tally.add(new Float32Array(2), new Float32Array(4), 2)
    expect(tally.difference().maxError).toBe(Number.POSITIVE_INFINITY)
  })
})

describe('the bounds', () => {
  const architecture = {
    family: 'llama',
    hiddenSize: 48,
    intermediateSize: 72,
    layers: 2,
    heads: 6,
    kvHeads: 3,
    headDim: 8,
    vocabSize: 96,
    maxPositions: 128,
  } as const
  const manifest: Pick<Manifest, 'base' | 'dtype'> = {
    base: { digest: '0'.repeat(64), architecture, eosTokenIds: [2] },
    dtype: 'float32',
  }
  const scale = { tokens: 33, rank: 5, magnitude: 6, change: 0.5 }

  it('are C·M·(1 + ρ)·(u·√N + v·√L) and ε² / 2', () => {
    // Per layer: two norms of 48, v of 48, o of 48, gate of 48, down of 72, four ranks of 5, scores of 8, context of 33.
    const N = 2 * (2 * 48 + 48 + 48 + 48 + 72 + 4 * 5 + 8 + 33) + 2 * 48
    const expected = 32 * 6 * 1.5 * 2 ** -24 * (Math.sqrt(N) + Math.sqrt(8))
    const { maxError, maxKl } = boundsOf(manifest, scale)
    expect(maxError).toBeCloseTo(expected, 12)
    expect(maxKl).toBeCloseTo(expected ** 2 / 2, 15)
  })

  it('grow with the magnitude and the change, and are 0 of nothing', () => {
    const at = (values: Partial<typeof scale>) => boundsOf(manifest, { ...scale, ...values }).maxError
    expect(at({ magnitude: 12 })).toBeCloseTo(2 * at({}), 12)
    expect(at({ change: 2 })).toBeCloseTo(2 * at({}), 12)
    expect(at({ magnitude: 0 })).toBe(0)
  })

  it.each([1, 5, 40, 128])('leave probes inside a vocabulary of 7 and %i positions', (maxPositions) => {
    for (let seed = 0; seed < 50; seed += 1) {
      const probes = drawProbes({ ...architecture, vocabSize: 7, maxPositions }, seed)
      expect(probes.length).toBeGreaterThan(0)
      for (const { ids, positions } of probes) {
        expect(ids).toHaveLength(positions.length)
        expect(ids.every((id) => Number.isInteger(id) && id >= 0 && id < 7)).toBe(true)
        expect(positions.every((at, i) => at > (positions[i - 1] ?? -1) && at < maxPositions)).toBe(true)
      }
    }
  })

  it('do not have probes that always begin at 0 without gaps', () => {
    const probes = [1, 2, 3].flatMap((seed) => drawProbes(architecture, seed))
    expect(probes.some(({ positions }) => positions[0]! > 0)).toBe(true)
    expect(probes.some(({ positions }) => positions.some((at, i) => i > 0 && at > positions[i - 1]! + 1))).toBe(true)
  })
})
