// The statistics of experiments: gbstats' and scipy's numbers, and what daily peeking does to them.
import { describe, expect, it } from 'vitest'
import { binomialAtLeast, binomialAtMost } from '../../gateway/experiment/binomial-tail.ts'
import { compareArms, MIN_SUBJECTS, meanOf, type Sums, varianceOfMean } from '../../gateway/experiment/compare-arms.ts'
import { logGamma } from '../../gateway/experiment/log-gamma.ts'
import { DECISIVE_SUBJECTS, logBayesFactor, sampleRatio } from '../../gateway/experiment/sample-ratio.ts'
import { falseAlarms, mismatchesAtTheEnd, mismatchesFound } from './peeking.ts'
import ratioOracle from './ratio-oracle.json' with { type: 'json' }
import oracle from './statistics-oracle.json' with { type: 'json' }

const close = (found: number | undefined, expected: number, digits = 10) =>
  expect(Math.abs((found ?? Number.NaN) - expected)).toBeLessThanOrEqual(
    10 ** -digits * Math.max(1, Math.abs(expected)),
  )

describe('log Γ', () => {
  it.each(oracle.logGamma)('of %s is that of scipy', (x, expected) =>
    close(logGamma(x as number), expected as number, 13),
  )
})

describe('a comparison', () => {
  it.each(oracle.comparisons)('of $control.subjects and $arm.subjects subjects is that of gbstats', (row) => {
    close(varianceOfMean(row.control), row.variance[0] ?? 0)
    close(varianceOfMean(row.arm), row.variance[1] ?? 0)
    for (const { alpha, difference, interval, p } of row.at) {
      const found = compareArms(row.control, row.arm, alpha)
      close(found?.difference, difference)
      close(found?.interval?.[0], interval[0] ?? 0)
      close(found?.interval?.[1], interval[1] ?? 0)
      close(found?.p ?? undefined, p)
    }
  })

  const constant = (value: number, subjects: number): Sums => ({
    subjects,
    s: value * subjects,
    n: subjects,
    ss: value * value * subjects,
    sn: value * subjects,
    nn: subjects,
  })

  it('says nothing of chance below the least number of subjects, in either arm', () => {
    for (const [a, b] of [
      [MIN_SUBJECTS - 1, 1_000],
      [1_000, MIN_SUBJECTS - 1],
    ] as const) {
      expect(compareArms(constant(1, a), constant(2, b))).toEqual({ difference: 1, interval: null, p: null })
    }
    expect(compareArms(constant(1, MIN_SUBJECTS), constant(2, MIN_SUBJECTS))?.interval).toEqual([1, 1])
  })

  it('of arms without an observation is none', () => {
    expect(compareArms(constant(0, 0), constant(1, 100))).toBeNull()
    expect(meanOf(constant(0, 0))).toBeNull()
  })

  it('of arms that are constant and alike is no difference', () => {
    expect(compareArms(constant(3, 100), constant(3, 100))).toEqual({ difference: 0, interval: [0, 0], p: 1 })
  })

  it('takes the requests of one subject as one: a hundred copies of each say no more than one', () => {
    const [first] = oracle.comparisons
    if (first === undefined) throw new Error('no comparison in the oracle')
    const copied = ({ subjects, s, n, ss, sn, nn }: Sums): Sums => ({
      subjects,
      s: 100 * s,
      n: 100 * n,
      ss: 10_000 * ss,
      sn: 10_000 * sn,
      nn: 10_000 * nn,
    })
    const once = compareArms(first.control, first.arm)
    const often = compareArms(copied(first.control), copied(first.arm))
    close(often?.interval?.[0], once?.interval?.[0] ?? 0)
  })

  it('finds, under thirty days of daily peeking, a difference that is not there in at most one run of twenty', () => {
    const runs = 200
    const { sequential, fixed } = falseAlarms({ runs, seed: 7, kind: 'latency', arrivals: 'steady', subjects: 3_000 })
    expect(sequential / runs).toBeLessThanOrEqual(0.05)
    // The same looks with an ordinary test: what peeking does where nothing is done about it.
    expect(fixed / runs).toBeGreaterThan(0.15)
  })
})

describe('the tails of a binomial', () => {
  it.each(ratioOracle.tails)('from %s of %s at %s are those of scipy', (k, n, w, above, below) => {
    for (const [found, expected] of [
      [binomialAtLeast(k as number, n as number, w as number), above as number],
      [binomialAtMost(k as number, n as number, w as number), below as number],
    ] as const) {
      expect(Math.abs(found - expected)).toBeLessThanOrEqual(1e-15 + 1e-10 * expected)
    }
  })
})

describe('a sample ratio', () => {
  it.each(oracle.ratios)('against $weights at $concentration has the Bayes factors of scipy', (row) => {
    for (const [at, counts] of row.looks.entries()) {
      close(logBayesFactor(counts, row.weights, row.concentration), row.logBayesFactors[at] ?? 0, 9)
    }
  })

  it.each(ratioOracle.ratios)('against $weights is that of scipy: p = $p', (row) => {
    const { p, mismatch } = sampleRatio(row.looks, row.weights)
    expect(Math.abs(p - row.p)).toBeLessThanOrEqual(1e-9 * row.p)
    expect(mismatch).toBe(row.p < 0.05)
  })

  it('of nobody is no mismatch', () => {
    expect(sampleRatio([], [5_000, 5_000])).toEqual({ p: 1, mismatch: false })
    expect(sampleRatio([[0, 0]], [5_000, 5_000])).toEqual({ p: 1, mismatch: false })
  })

  it('stays found: later looks take nothing back', () => {
    const skewed = sampleRatio([[700, 300]], [1, 1])
    expect(skewed.mismatch).toBe(true)
    const later = [
      [700, 300],
      [100_000, 100_000],
    ]
    expect(sampleRatio(later, [1, 1])).toEqual(skewed)
  })

  it('does not change with the order of the arms', () => {
    for (const [a, b] of [
      [2_571, 2_429],
      [1_300, 1_200],
    ] as const) {
      expect(sampleRatio([[a, b]], [1, 1]).p).toBeCloseTo(sampleRatio([[b, a]], [1, 1]).p, 12)
    }
  })

  it('makes up its mind at its decisive subject: what the ordinary test at 3.8 % says there is an alarm, and one less is none', () => {
    const half = DECISIVE_SUBJECTS / 2
    expect(sampleRatio([[half + 74, half - 74]], [1, 1]).mismatch).toBe(true)
    expect(sampleRatio([[half + 73, half - 73]], [1, 1]).mismatch).toBe(false)
  })

  it('is found within 5,000 subjects at 52 to 48 in 0.95 of the runs in which the best test that waits for them all finds it', () => {
    const runs = { runs: 1_000, seed: 11, share: 0.52, subjects: 5_000 }
    const { found } = mismatchesFound(runs)
    expect(found / runs.runs).toBeGreaterThan(0.75)
    expect(found / mismatchesAtTheEnd(runs)).toBeGreaterThan(0.95)
  })

  it('is found without a cause in fewer than one life of twenty, looked at 200 times', () => {
    expect(mismatchesFound({ runs: 1_000, seed: 12, share: 0.5, subjects: 10_000 }).found / 1_000).toBeLessThan(0.05)
  })
})
