// Experiments that never were, looked at every day: how often chance is taken for an effect. The tests run a few, the
// benchmark thousands; the seed decides each.
import { compareArms, MIN_SUBJECTS, type Sums, varianceOfMean } from '../../gateway/experiment/compare-arms.ts'
import { logBayesFactor, MISMATCH_ALPHA, sampleRatio } from '../../gateway/experiment/sample-ratio.ts'

export const DAYS = 30
/** Two-sided 5 % of the normal distribution. */
const Z = 1.959963984540054

export interface PeekedRuns {
  readonly runs: number
  readonly seed: number
  /** `latency`: long-tailed, and each subject has a pace of its own. `rate`: rare events, some subjects more prone. */
  readonly kind: 'latency' | 'rate'
  /** `steady`: as many new subjects each day. `all at once`: everybody on the first day, and then they only return. */
  readonly arrivals: 'steady' | 'all at once'
  readonly subjects: number
  /** Added to the treatment's mean, in parts of it. */
  readonly effect?: number
}

/** Mulberry32: a small generator of uniform numbers in [0, 1), the same on every host. */
export function uniform(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

const normalFrom = (next: () => number) => () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next())

interface Person {
  readonly arm: 0 | 1
  readonly own: number
  s: number
  n: number
}

/** Runs in which some day's look would have called a difference, by our test and by an ordinary one; and on which day. */
export function falseAlarms(options: PeekedRuns): { sequential: number; fixed: number; days: number[] } {
  const next = uniform(options.seed)
  const normal = normalFrom(next)
  let sequential = 0
  let fixed = 0
  const days: number[] = []
  for (let run = 0; run < options.runs; run++) {
    const people: Person[] = []
    let first: number | null = null
    let called = false
    for (let day = 0; day < DAYS; day++) {
      const due = options.arrivals === 'steady' ? Math.round((options.subjects * (day + 1)) / DAYS) : options.subjects
      while (people.length < due) people.push({ arm: next() < 0.5 ? 0 : 1, own: 0.5 * normal(), s: 0, n: 0 })
      for (const person of people) {
        // A new subject asks once; an old one returns every other day or so, as often as chance has it.
        const requests = person.n === 0 ? 1 : next() < 0.5 ? 1 + Math.floor(3 * next()) : 0
        for (let i = 0; i < requests; i++) {
          const lift = person.arm === 1 ? 1 + (options.effect ?? 0) : 1
          person.s +=
            options.kind === 'latency'
              ? lift * Math.exp(5 + person.own + 0.5 * normal())
              : next() < lift * 0.02 * Math.exp(person.own)
                ? 1
                : 0
          person.n += 1
        }
      }
      const [control, arm] = [sumsOf(people, 0), sumsOf(people, 1)]
      const { difference = 0, p = null } = compareArms(control, arm) ?? {}
      if (p !== null && p <= 0.05) first ??= day + 1
      if (Math.min(control.subjects, arm.subjects) >= MIN_SUBJECTS) {
        called ||= Math.abs(difference) > Z * Math.sqrt(varianceOfMean(control) + varianceOfMean(arm))
      }
    }
    if (first !== null) days.push(first)
    sequential += first === null ? 0 : 1
    fixed += called ? 1 : 0
  }
  return { sequential, fixed, days }
}

function sumsOf(people: readonly Person[], arm: 0 | 1): Sums {
  let [subjects, s, n, ss, sn, nn] = [0, 0, 0, 0, 0, 0]
  for (const person of people) {
    if (person.arm !== arm) continue
    subjects += 1
    s += person.s
    n += person.n
    ss += person.s * person.s
    sn += person.s * person.n
    nn += person.n * person.n
  }
  return { subjects, s, n, ss, sn, nn }
}

/** Looked at every so many subjects: more often than any dashboard, and as valid. */
const LOOK_EVERY = 50

interface MismatchedRuns {
  readonly runs: number
  readonly seed: number
  readonly share: number
  readonly subjects: number
  /** By the Bayes factor alone, at this concentration: what the test would be without its other part. */
  readonly concentration?: number
}

/** Runs of a split of `share` to the rest, weighed against halves, in which the mismatch is found; and after how many. */
export function mismatchesFound(options: MismatchedRuns): { found: number; after: number[] } {
  const { concentration } = options
  const isFound = (look: readonly number[]): boolean =>
    concentration === undefined
      ? sampleRatio([look], [1, 1]).mismatch
      : logBayesFactor(look, [0.5, 0.5], concentration) > -Math.log(MISMATCH_ALPHA)
  const after = [...splits(options)].flatMap((looks) => {
    const at = looks.findIndex(isFound)
    return at < 0 ? [] : [(at + 1) * LOOK_EVERY]
  })
  return { found: after.length, after }
}

/** The same runs by the ordinary test of two shares, once, when all subjects are there: it may not be asked before. */
export function mismatchesAtTheEnd({ runs, seed, share, subjects }: MismatchedRuns): number {
  return [...splits({ runs, seed, share, subjects })].filter((looks) => {
    const [first = 0, second = 0] = looks.at(-1) ?? []
    return Math.abs(first - second) > Z * Math.sqrt(subjects)
  }).length
}

function* splits({ runs, seed, share, subjects }: MismatchedRuns): Generator<number[][]> {
  const next = uniform(seed)
  for (let run = 0; run < runs; run++) {
    let first = 0
    const looks: number[][] = []
    for (let n = 1; n <= subjects; n++) {
      if (next() < share) first += 1
      if (n % LOOK_EVERY === 0) looks.push([first, n - first])
    }
    yield looks
  }
}
