// Pruning entry by entry: how many are kept, which ones, and what is drawn.
import { describe, expect, test } from 'vitest'
import { pruneBothEnds } from '../../compiler/combine/breadcrumbs.ts'
import { dropAtRandom } from '../../compiler/combine/dare.ts'
import { dropByRank } from '../../compiler/combine/della.ts'
import { pruneByMagnitude } from '../../compiler/combine/magnitude-prune.ts'
import { stream } from '../../compiler/combine/threefry.ts'
import { ties } from '../../compiler/combine/ties.ts'
import { randomValues } from './adapters.ts'

const values = randomValues(1009, 'pruning')
const kept = (pruned: Float32Array) => [...pruned.keys()].filter((i) => pruned[i] !== 0)

describe('magnitude', () => {
  test.each([0.001, 0.1, 0.5, 0.999])('keeps exactly ⌊%d·n⌋ entries, and the largest', (density) => {
    const pruned = pruneByMagnitude(values, density, 'a')
    expect(kept(pruned)).toHaveLength(Math.floor(density * values.length))
    const smallest = Math.min(...kept(pruned).map((i) => Math.abs(values[i]!)))
    const dropped = [...values].filter((_, i) => pruned[i] === 0).map(Math.abs)
    expect(Math.max(...dropped)).toBeLessThanOrEqual(smallest)
    for (const i of kept(pruned)) expect(pruned[i]).toBe(values[i])
  })

  test('of equal sizes the lower index stays, whatever the sign', () => {
    expect([...pruneByMagnitude(new Float32Array([1, -2, 2, 2, -2, 1]), 0.5, 'a')]).toEqual([0, -2, 2, 2, 0, 0])
    expect([...pruneByMagnitude(new Float32Array([0, 0, 3, 0]), 0.5, 'a')]).toEqual([0, 0, 3, 0])
  })

  test('refuses a density that keeps nothing, with the numbers', () => {
    expect(() => pruneByMagnitude(values, 0.0005, 'adapter "a": m.delta')).toThrow(
      /"a": m.delta.*0.0005 keeps none of 1009/,
    )
  })

  test('subnormals, signed zeros and the largest float keep their order', () => {
    const hard = new Float32Array([-0, 1e-45, -3e-45, 3.4e38, 1e-38])
    expect([...pruneByMagnitude(hard, 0.6, 'a')].map((value) => value !== 0)).toEqual([false, false, true, true, true])
  })
})

describe('breadcrumbs', () => {
  test('drops the outliers and the small, keeps exactly ⌊density·n⌋ between', () => {
    const ordered = Float32Array.from({ length: 100 }, (_, i) => (i % 2 ? -1 : 1) * (i + 1))
    expect(kept(pruneBothEnds(ordered, 0.3, 0.1, 'a'))).toEqual(Array.from({ length: 30 }, (_, i) => 60 + i))
  })

  test('gamma 0 is pruning by magnitude (mergekit drops everything there)', () => {
    expect(pruneBothEnds(values, 0.4, 0, 'a')).toEqual(pruneByMagnitude(values, 0.4, 'a'))
  })

  test('gives up outliers before it keeps less than the density', () => {
    expect(kept(pruneBothEnds(values, 0.99, 0.5, 'a'))).toHaveLength(Math.floor(0.99 * values.length))
  })
})

describe('drawn at random', () => {
  test('Threefry-2x32-20 gives the known answers of Random123', () => {
    expect([...stream(0, '')(2)].map((value) => value * 2 ** 32)).toEqual([0x6b200159, 0x99ba4efe])
  })

  test('a seed gives one mask, another seed or another name gives another', () => {
    const mask = (seed: number, name: string) => kept(dropAtRandom(values, 0.5, stream(seed, name)))
    expect(mask(1, 'm/a/delta')).toEqual(mask(1, 'm/a/delta'))
    expect(mask(2, 'm/a/delta')).not.toEqual(mask(1, 'm/a/delta'))
    expect(mask(1, 'm/b/delta')).not.toEqual(mask(1, 'm/a/delta'))
  })

  test('an entry does not depend on how many are drawn', () => {
    expect([...stream(9, 'x')(7)]).toEqual([...stream(9, 'x')(100).subarray(0, 7)])
  })

  test('DARE keeps the share and divides by it, so the mean over seeds is the value', () => {
    const ones = new Float32Array(100_000).fill(1)
    const dropped = dropAtRandom(ones, 0.25, stream(3, 'x'))
    expect(new Set(dropped)).toEqual(new Set([0, 4]))
    expect(dropped.reduce((sum, value) => sum + value, 0) / ones.length).toBeCloseTo(1, 1)
  })

  test('della keeps large entries more often, and the mean over seeds is the value', () => {
    const row = Float32Array.from({ length: 50 }, (_, i) => i + 1)
    const sums = new Float64Array(50)
    const counts = new Float64Array(50)
    const draws = 4000
    for (let seed = 0; seed < draws; seed += 1) {
      dropByRank(row, 50, 0.5, 0.4, stream(seed, 'x')).forEach((value, i) => {
        sums[i]! += value / draws
        counts[i]! += value === 0 ? 0 : 1 / draws
      })
    }
    expect(counts[0]).toBeCloseTo(0.1, 1)
    expect(counts[49]).toBeCloseTo(0.9, 1)
    sums.forEach((mean, i) => {
      expect(Math.abs(mean / (i + 1) - 1)).toBeLessThan(0.25)
    })
  })
})

describe('ties', () => {
  const one = (...entries: number[]) => entries.map((entry) => new Float32Array([entry]))

  test('total counts sizes, frequency counts heads', () => {
    expect([...ties(one(3, -1, -1), [1, 1, 1], 'total', 'weighted')]).toEqual([3])
    expect([...ties(one(3, -1, -1), [1, 1, 1], 'frequency', 'weighted')]).toEqual([-1])
  })

  test('the mean is over those that agree, and a zero never does', () => {
    expect([...ties(one(2, 4, 0, -1), [1, 1, 1, 1], 'total', 'weighted')]).toEqual([3])
    expect([...ties(one(0, 0), [1, 1], 'total', 'weighted')]).toEqual([0])
  })

  test('a tied vote elects +', () => {
    expect([...ties(one(1, -1), [1, 1], 'total', 'weighted')]).toEqual([1])
  })

  test('a negative weight votes for what it adds; unweighted, for what it takes away', () => {
    expect([...ties(one(2, 3), [1, -1], 'total', 'weighted')]).toEqual([-3])
    expect([...ties(one(2, 3), [1, -1], 'total', 'unweighted')]).toEqual([-0.5])
  })
})
