// Who is in which arm, against GrowthBook's own SDK, on random experiments.
import { GrowthBook } from '@growthbook/growthbook'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { bucketArm } from '../../gateway/experiment/assign-arm.ts'
import { BUCKETS, NAMESPACE_BUCKETS } from '../../gateway/experiment/hash-bucket.ts'
import type { Experiment } from '../../gateway/policy/policy.ts'

const target = { kind: 'base', baseDigest: 'b'.repeat(64), enabled: true } as const

const weights = fc
  .array(fc.nat(BUCKETS), { minLength: 1, maxLength: 6 })
  .map((cuts) => [...cuts, BUCKETS].sort((a, b) => a - b))
  .map((edges) => edges.map((edge, at) => edge - (edges[at - 1] ?? 0)))
const namespace = fc
  .record({ id: fc.string(), from: fc.nat(NAMESPACE_BUCKETS), to: fc.nat(NAMESPACE_BUCKETS) })
  .map(({ id, from, to }) => ({ id, start: Math.min(from, to), end: Math.max(from, to) }))
const experiments: fc.Arbitrary<Experiment> = fc
  .record({
    seed: fc.string({ minLength: 1, maxLength: 40 }),
    coverage: fc.oneof(fc.constant(BUCKETS), fc.nat(BUCKETS)),
    namespace: fc.option(namespace),
    weights,
  })
  .map(({ weights, ...rest }) => ({
    ...rest,
    id: 'e',
    bucketVersion: 1,
    running: true,
    guardrails: [],
    arms: weights.map((weight, at) => ({ id: String(at), weight, target, shadow: false, stopped: false })),
  }))

/** Sums of float weights end beside the integers that they mean; a bucket on such an edge is theirs to place. */
function isOnEdge(experiment: Experiment, subject: string): boolean {
  const found = new Set<string | undefined>()
  for (const nudge of [-1, 0, 1]) {
    const coverage = experiment.coverage + nudge
    found.add(bucketArm({ ...experiment, coverage }, subject)?.id)
  }
  return found.size > 1
}

function theirs(experiment: Experiment, subject: string): string | undefined {
  const { seed, coverage, namespace: space, arms } = experiment
  const book = new GrowthBook({ attributes: { id: subject } })
  const { inExperiment, variationId } = book.run({
    key: 'e',
    seed,
    hashVersion: 2,
    variations: arms.map((arm) => arm.id) as [string, string, ...string[]],
    weights: arms.map((arm) => arm.weight / BUCKETS),
    coverage: coverage / BUCKETS,
    ...(space === null
      ? {}
      : { namespace: [space.id, space.start / NAMESPACE_BUCKETS, space.end / NAMESPACE_BUCKETS] as const as never }),
  })
  book.destroy()
  return inExperiment ? String(variationId) : undefined
}

describe('the arm of a subject', () => {
  it('is that of the GrowthBook SDK, whatever the weights, the coverage and the namespace', () => {
    let placed = 0
    let edges = 0
    fc.assert(
      fc.property(
        experiments,
        fc.array(fc.string({ minLength: 1 }), { minLength: 20, maxLength: 20 }),
        (one, subjects) => {
          for (const subject of subjects) {
            const ours = bucketArm(one, subject)?.id
            if (ours !== theirs(one, subject)) {
              expect([one, subject, isOnEdge(one, subject)]).toEqual([one, subject, true])
              edges += 1
            }
            if (ours !== undefined) placed += 1
          }
        },
      ),
      { numRuns: 500 },
    )
    // Of 10,000: most are in no arm for want of coverage or namespace, and the float edges are few.
    expect(placed).toBeGreaterThan(2_000)
    expect(edges).toBeLessThan(10)
  })

  it('is never a shadow, whatever its place', () => {
    const arm = { id: 'a', weight: BUCKETS, target, shadow: false, stopped: false }
    const shadow = { id: 's', weight: 0, target, shadow: true, stopped: false }
    const one = {
      id: 'e',
      seed: 's',
      bucketVersion: 1,
      running: true,
      coverage: BUCKETS,
      namespace: null,
      guardrails: [],
    }
    for (let i = 0; i < 100; i++) expect(bucketArm({ ...one, arms: [arm, shadow] }, `s${i}`)?.id).toBe('a')
  })

  it('excludes itself from two experiments of one namespace whose ranges do not meet', () => {
    const arms = [{ id: 'a', weight: BUCKETS, target, shadow: false, stopped: false }]
    const one = { id: 'e', seed: 's', bucketVersion: 1, running: true, coverage: BUCKETS, guardrails: [], arms }
    const counts = { first: 0, second: 0 }
    for (let i = 0; i < 2_000; i++) {
      const first = bucketArm({ ...one, namespace: { id: 'n', start: 0, end: 400 } }, `subject-${i}`)
      const second = bucketArm({ ...one, seed: 't', namespace: { id: 'n', start: 400, end: 1_000 } }, `subject-${i}`)
      expect(first === undefined).toBe(second !== undefined)
      if (first !== undefined) counts.first += 1
      else counts.second += 1
    }
    expect(counts.first / 2_000).toBeCloseTo(0.4, 1)
  })
})
