// The bucket hash against GrowthBook's published vectors, and the ranges over it.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import * as hashes from '../../gateway/experiment/hash-bucket.ts'
import {
  BUCKETS,
  bucketsOf,
  hashBucket,
  hashThousandth,
  NAMESPACE_BUCKETS,
  orderByAffinity,
  pickArm,
} from '../../gateway/experiment/hash-bucket.ts'

describe('the bucket hash', () => {
  // GrowthBook's tests/cases.json 0.7.1, "hash", all 15 rows: seven of version 2, seven of version 1, one of none.
  it.each([
    ['seed', 'a', 0.0505],
    ['seed', 'b', 0.2696],
    ['foo', 'ab', 0.2575],
    ['foo', 'def', 0.2019],
    ['89123klj', '8952klfjas09ujkasdf', 0.124],
    ['90850943850283058242805', '123', 0.7516],
    ['()**(%$##$%#$#', '___)((*":&', 0.0128],
  ])('gives GrowthBook version 2 for %s, %s', (seed, value, expected) => {
    expect(hashBucket(seed, value) / BUCKETS).toBe(expected)
  })

  it.each([
    ['', 'a', 0.22],
    ['', 'b', 0.077],
    ['b', 'a', 0.946],
    ['ef', 'd', 0.652],
    ['asdf', '8952klfjas09ujk', 0.549],
    ['', '123', 0.011],
    ['', '___)((*":&', 0.563],
  ])('gives GrowthBook version 1 for %s, %s, which is that of namespaces', (seed, value, expected) => {
    expect(hashThousandth(seed, value) / NAMESPACE_BUCKETS).toBe(expected)
  })

  it('has no other version, so the row of version 99 has no value to differ from', () => {
    expect(
      Object.keys(hashes)
        .filter((name) => /^hash/i.test(name))
        .sort(),
    ).toEqual(['hashBucket', 'hashThousandth'])
  })

  it('splits 200,000 subjects within three standard deviations, as they are and as a ramp lets them in', async () => {
    const arms = [1_000, 2_500, 6_500].map((weight, id) => ({ id, weight }))
    const subjects = 200_000
    for (const coverage of [BUCKETS, 3_000]) {
      const counts = [0, 0, 0]
      for (let i = 0; i < subjects; i++) {
        const arm = pickArm(arms, hashBucket('acme/trial', i.toString(16).padStart(64, '0')), coverage)
        if (arm !== undefined) counts[arm.id]! += 1
      }
      for (const { id, weight } of arms) {
        const share = (weight * coverage) / BUCKETS ** 2
        const sigma = Math.sqrt(subjects * share * (1 - share))
        expect(Math.abs(counts[id]! - subjects * share)).toBeLessThan(3 * sigma)
      }
    }
  })

  it('splits independently under different seeds', () => {
    const cells = [0, 0, 0, 0]
    for (let id = 0; id < 20_000; id++) {
      const a = hashBucket('one', `subject-${id}`) < BUCKETS / 2 ? 1 : 0
      const b = hashBucket('two', `subject-${id}`) < BUCKETS / 2 ? 1 : 0
      cells[2 * a + b]! += 1
    }
    // Expected 5,000 each, standard deviation 61; the hash is deterministic, so this cannot flake.
    for (const count of cells) expect(Math.abs(count - 5000)).toBeLessThan(250)
  })
})

describe('arms', () => {
  it('are half-open integer ranges that cover every bucket once', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(BUCKETS), { minLength: 1, maxLength: 8 }), (cuts) => {
        const edges = [...cuts.map((cut) => cut), BUCKETS].sort((a, b) => a - b)
        const arms = edges.map((edge, i) => ({ id: i, weight: edge - (edges[i - 1] ?? 0) }))
        const counts = new Map<number, number>()
        for (let bucket = 0; bucket < BUCKETS; bucket += 97) {
          const arm = pickArm(arms, bucket)
          expect(arm).toBeDefined()
          counts.set(arm!.id, (counts.get(arm!.id) ?? 0) + 1)
        }
        for (const arm of arms) if (arm.weight === 0) expect(counts.has(arm.id)).toBe(false)
      }),
      { numRuns: 30 },
    )
  })

  it('move nobody from arm to arm when a ramp is raised, and nobody out', () => {
    const weights = fc.uniqueArray(fc.nat(BUCKETS), { minLength: 1, maxLength: 8 }).map((cuts) => {
      const edges = [...cuts, BUCKETS].sort((a, b) => a - b)
      return edges.map((edge, id) => ({ id, weight: edge - (edges[id - 1] ?? 0) }))
    })
    fc.assert(
      fc.property(weights, fc.nat(BUCKETS), fc.nat(BUCKETS), (arms, one, other) => {
        const [low, high] = [Math.min(one, other), Math.max(one, other)]
        for (let bucket = 0; bucket < BUCKETS; bucket += 37) {
          const before = pickArm(arms, bucket, low)
          if (before !== undefined) expect(pickArm(arms, bucket, high)).toBe(before)
        }
      }),
    )
  })

  it('have as many buckets at a coverage as a sample ratio is weighed against', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: BUCKETS - 1 }),
        fc.integer({ min: 1, max: BUCKETS }),
        (weight, coverage) => {
          const arms = [
            { id: 0, weight },
            { id: 1, weight: BUCKETS - weight },
          ]
          const counts = [0, 0]
          for (let bucket = 0; bucket < BUCKETS; bucket++) {
            const arm = pickArm(arms, bucket, coverage)
            if (arm !== undefined) counts[arm.id]! += 1
          }
          expect(counts).toEqual(arms.map((arm) => bucketsOf(arm.weight, coverage)))
        },
      ),
    )
  })

  it('put bucket 9999 into the last arm and bucket 5000 into the second of two halves', () => {
    const halves = [
      { id: 'a', weight: 5000 },
      { id: 'b', weight: 5000 },
    ]
    expect([0, 4999, 5000, 9999].map((bucket) => pickArm(halves, bucket)?.id)).toEqual(['a', 'a', 'b', 'b'])
    expect(pickArm(halves, 10_000)).toBeUndefined()
  })
})

describe('affinity', () => {
  it('keeps its order when another candidate leaves, whatever order they came in', () => {
    const ids = fc.uniqueArray(fc.string({ minLength: 1 }), { minLength: 2, maxLength: 6 })
    fc.assert(
      fc.property(ids, fc.string(), (names, key) => {
        const candidates = names.map((id) => ({ id }))
        const order = orderByAffinity(candidates, key).map((c) => c.id)
        expect(orderByAffinity([...candidates].reverse(), key).map((c) => c.id)).toEqual(order)
        const fewer = candidates.filter((c) => c.id !== names[0])
        expect(orderByAffinity(fewer, key).map((c) => c.id)).toEqual(order.filter((id) => id !== names[0]))
      }),
    )
  })
})
