// Experiments: how even the split is; what daily peeking does to an ordinary test and to ours, where
// nothing is to be found and where something is; how soon a mismatch of 52 to 48 is seen, and at what concentration.
import { hashBucket, pickArm } from '../gateway/experiment/hash-bucket.ts'
import { CONCENTRATION } from '../gateway/experiment/sample-ratio.ts'
import { DAYS, falseAlarms, mismatchesAtTheEnd, mismatchesFound, type PeekedRuns } from '../test/gateway/peeking.ts'
import { type Row, record } from './record.ts'

const SUBJECTS = 200_000
const RUNS = 1_000
const MISMATCH_RUNS = 2_000
const SEED = 20_261_124

const names = (share: number) => `${Math.round(100 * share)}/${Math.round(100 * (1 - share))}`
const percent = (part: number, of: number) => `${((100 * part) / of).toFixed(1)} %`

function split(): Row[] {
  const arms = [1_000, 2_500, 6_500].map((weight, id) => ({ id, weight }))
  const counts = arms.map(() => 0)
  for (let i = 0; i < SUBJECTS; i++) {
    // As they come in: 64 hex digits a subject.
    const arm = pickArm(arms, hashBucket('bench/experiments', (i * 2_654_435_761).toString(16).padStart(64, '0')))
    if (arm !== undefined) counts[arm.id] = (counts[arm.id] ?? 0) + 1
  }
  const sigmas = arms.map(({ id, weight }) => {
    const share = weight / 10_000
    return ((counts[id] ?? 0) - SUBJECTS * share) / Math.sqrt(SUBJECTS * share * (1 - share))
  })
  const furthest = Math.max(...sigmas.map(Math.abs))
  return [
    {
      what: `split of ${SUBJECTS} subjects at 10/25/65: furthest from its share`,
      value: `${furthest.toFixed(2)} sigma`,
    },
  ]
}

function peek(what: string, options: Omit<PeekedRuns, 'runs' | 'seed'>): Row[] {
  const { sequential, fixed, days } = falseAlarms({ ...options, runs: RUNS, seed: SEED })
  const found = options.effect === undefined ? 'found though it is not there' : 'found'
  const title = `${DAYS} days of daily looks, ${what}: a difference ${found}`
  return [
    { what: `${title}, by ours`, value: percent(sequential, RUNS), ...(days.length === 0 ? {} : { samples: days }) },
    { what: `${title}, by a test that is meant for one look`, value: percent(fixed, RUNS) },
  ]
}

function mismatch(share: number, subjects: number, concentration?: number): Row {
  const runs = { runs: MISMATCH_RUNS, seed: SEED, share, subjects }
  const { found, after } = mismatchesFound({ ...runs, ...(concentration === undefined ? {} : { concentration }) })
  const sorted = [...after].sort((a, b) => a - b)
  const half = sorted[Math.ceil(MISMATCH_RUNS / 2) - 1]
  const by = concentration === undefined ? '' : `, by its Bayes factor alone, concentration ${concentration}`
  return {
    what: `mismatch at ${names(share)} found within ${subjects} subjects${by}`,
    value: `${percent(found, MISMATCH_RUNS)}${half === undefined ? '' : `, in half of the runs within ${half}`}`,
  }
}

function atTheEnd(share: number, subjects: number): Row {
  return {
    what: `mismatch at ${names(share)}, the same runs by one two-sided 5 % test after ${subjects} subjects`,
    value: percent(mismatchesAtTheEnd({ runs: MISMATCH_RUNS, seed: SEED, share, subjects }), MISMATCH_RUNS),
  }
}

/**
 * What no test can pass: by Neyman and Pearson none of 5 % finds a share that it was told in advance oftener than the
 * one-sided test of all subjects, and none that must treat both sides alike oftener than the two-sided one.
 */
function ceilings(share: number, subjects: number): Row[] {
  const drift = (2 * share - 1) * Math.sqrt(subjects)
  const spread = 2 * Math.sqrt(share * (1 - share))
  const what = `mismatch at ${names(share)} within ${subjects} subjects: the most that any 5 % test can find`
  return [
    { what: `${what}, both sides alike`, value: percent(normal((drift - Z_TWO_SIDED) / spread), 1) },
    { what: `${what}, told the side`, value: percent(normal((drift - Z_ONE_SIDED) / spread), 1) },
  ]
}

const Z_TWO_SIDED = 1.959963984540054
const Z_ONE_SIDED = 1.6448536269514722

/** Φ by Abramowitz, Stegun 7.1.26: to 1e-7, which is enough for a percentage. */
function normal(z: number): number {
  const x = Math.abs(z) / Math.SQRT2
  const t = 1 / (1 + 0.3275911 * x)
  const tail =
    t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * Math.exp(-x * x)
  return z < 0 ? tail / 2 : 1 - tail / 2
}

record('experiments', 'node bench/experiments.ts', [
  ...split(),
  ...peek('long-tailed latencies, 3,000 subjects who come bit by bit', {
    kind: 'latency',
    arrivals: 'steady',
    subjects: 3_000,
  }),
  ...peek('long-tailed latencies, 1,000 subjects who all come on the first day and return', {
    kind: 'latency',
    arrivals: 'all at once',
    subjects: 1_000,
  }),
  ...peek('rare events (2 %), 3,000 subjects who come bit by bit', {
    kind: 'rate',
    arrivals: 'steady',
    subjects: 3_000,
  }),
  ...peek('latencies 10 % longer, 3,000 subjects who come bit by bit', {
    kind: 'latency',
    arrivals: 'steady',
    subjects: 3_000,
    effect: 0.1,
  }),
  mismatch(0.52, 5_000),
  atTheEnd(0.52, 5_000),
  ...ceilings(0.52, 5_000),
  ...[300, CONCENTRATION, 1_500, 10_000].map((concentration) => mismatch(0.52, 5_000, concentration)),
  mismatch(0.52, 10_000),
  mismatch(0.52, 10_000, CONCENTRATION),
  mismatch(0.55, 5_000),
  mismatch(0.55, 5_000, CONCENTRATION),
  mismatch(0.6, 5_000),
  mismatch(0.5, 10_000),
])
