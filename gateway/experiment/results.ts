// What an experiment has found so far: who is in which arm, whether the split is sound, and each metric against the control.

import { eq } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { metrics } from '../database/schema.ts'
import { compareArms, meanOf, type Sums } from './compare-arms.ts'
import { bucketsOf } from './hash-bucket.ts'
import type { ArmRow, ExperimentRow } from './read-experiment.ts'
import {
  type ArmSums,
  type ExposedCount,
  RULED,
  readExposed,
  readFirstExposed,
  readShadowSums,
  readSums,
} from './read-sums.ts'
import { DECISIVE_SUBJECTS, type SampleRatio, sampleRatio } from './sample-ratio.ts'

type Better = 'higher' | 'lower'

interface Figure {
  readonly subjects: number
  readonly observations: number
  readonly mean: number | null
}

interface Against {
  readonly difference: number
  /** Of the control's mean; null where that is 0. */
  readonly relative: number | null
  readonly interval: readonly [number, number] | null
  readonly p: number | null
  /** What the interval leaves no doubt of, at any look. */
  readonly verdict: 'better' | 'worse' | 'open'
}

const figure = (sums: Sums): Figure => ({ subjects: sums.subjects, observations: sums.n, mean: meanOf(sums) })

function against(control: Sums | undefined, arm: Sums, better: Better): Against | null {
  const found = control && compareArms(control, arm)
  if (!control || !found) return null
  const mean = meanOf(control)
  const { difference, interval, p } = found
  const side = interval === null || (interval[0] <= 0 && interval[1] >= 0) ? 0 : Math.sign(difference)
  const verdict = side === 0 ? 'open' : side > 0 === (better === 'higher') ? 'better' : 'worse'
  return { difference, relative: mean === null || mean === 0 ? null : difference / mean, interval, p, verdict }
}

type Of = 'subjects' | 'analysed'

/** Cumulative counts, a look a day. */
function looksOf(counts: readonly ExposedCount[], arms: readonly ArmRow[], of: Of): number[][] {
  const sums = arms.map(() => 0)
  return [...Map.groupBy(counts, ({ day }) => day).values()].map((day) => {
    for (const [at, arm] of arms.entries())
      sums[at] = (sums[at] ?? 0) + (day.find((row) => row.arm === arm.id)?.[of] ?? 0)
    return [...sums]
  })
}

const totalOf = (look: readonly number[]): number => look.reduce((sum, count) => sum + count, 0)

/** And one look more, in the middle of a day: at the subject that the test is made for. */
async function ratioOf(
  db: DrizzleD1Database,
  experiment: ExperimentRow,
  counts: readonly ExposedCount[],
  arms: readonly ArmRow[],
  of: Of,
): Promise<SampleRatio | null> {
  const weighted = arms.filter((arm) => arm.weight > 0)
  // One arm can only have everybody.
  if (weighted.length < 2) return null
  const looks = looksOf(counts, weighted, of)
  if (totalOf(looks.at(-1) ?? []) > DECISIVE_SUBJECTS) {
    const ids = weighted.map((arm) => arm.id)
    const first = await readFirstExposed(db, experiment, DECISIVE_SUBJECTS, of === 'analysed' ? ids : undefined)
    looks.push(ids.map((id) => first.find((row) => row.arm === id)?.subjects ?? 0))
    looks.sort((a, b) => totalOf(a) - totalOf(b))
  }
  return sampleRatio(
    looks,
    weighted.map((arm) => bucketsOf(arm.weight, experiment.coverage)),
  )
}

export async function readResults(db: DrizzleD1Database, experiment: ExperimentRow) {
  const { tenantId, id, bucketVersion, status, coverage, verdict } = experiment
  const [sums, shadowSums, counts, defined] = await Promise.all([
    readSums(db, experiment),
    readShadowSums(db, experiment),
    readExposed(db, experiment),
    db.select().from(metrics).where(eq(metrics.tenantId, tenantId)),
  ])
  const better: Readonly<Record<string, Better>> = {
    ...Object.fromEntries(defined.map((metric): [string, Better] => [metric.id, metric.better])),
    ...RULED,
  }
  const assigned = experiment.arms.filter((arm) => !arm.shadow)
  const standing = assigned.filter((arm) => arm.stoppedAt === null)
  const [control] = assigned
  const [assignedRatio, analysedRatio] = await Promise.all([
    ratioOf(db, experiment, counts, assigned, 'subjects'),
    ratioOf(db, experiment, counts, standing, 'analysed'),
  ])
  const countOf = (arm: string, of: Of) => counts.reduce((sum, row) => sum + (row.arm === arm ? row[of] : 0), 0)
  const metricsOf = (arm: ArmRow, found: readonly ArmSums[], compared: boolean) =>
    Object.fromEntries(
      found
        .filter((row) => row.arm === arm.id)
        .map((row) => {
          const of = sums.find((other) => other.arm === control?.id && other.metric === row.metric)
          const vsControl = compared ? against(of, row, better[row.metric] ?? 'higher') : null
          return [row.metric, { ...figure(row), ...(vsControl === null ? {} : { vsControl }) }]
        }),
    )
  return {
    experiment: id,
    bucketVersion,
    status,
    coverage,
    verdict,
    sampleRatio: {
      /** Of all who were exposed: what the hash did. */
      assigned: assignedRatio,
      /** Of those in the analysis: what permissions and failures did to it. */
      analysed: analysedRatio,
    },
    arms: assigned.map((arm) => ({
      id: arm.id,
      weight: arm.weight,
      stopped: arm.stoppedAt === null ? null : { at: arm.stoppedAt, by: arm.stoppedBy },
      exposed: countOf(arm.id, 'subjects'),
      analysed: arm.stoppedAt === null ? countOf(arm.id, 'analysed') : 0,
      // A stopped arm is out of the analysis; what stopped it is said above.
      metrics: arm.stoppedAt === null ? metricsOf(arm, sums, arm !== control) : {},
    })),
    shadows: experiment.arms
      .filter((arm) => arm.shadow)
      .map((arm) => ({ id: arm.id, metrics: metricsOf(arm, shadowSums, false) })),
  }
}
