// Guardrails: an arm that is worse than the control beyond its margin, by a bound that holds at every look, is stopped.
// From then on its subjects get the control and are out of the analysis; the buckets of all others stay where they are.
import { and, eq } from 'drizzle-orm'
import { recordChange } from '../admin/record-change.ts'
import type { GatewayContext } from '../context.ts'
import { arms } from '../database/schema.ts'
import { GatewayError } from '../errors.ts'
import { log } from '../log.ts'
import { ALPHA, compareArms } from './compare-arms.ts'
import { type ExperimentRow, readExperiment } from './read-experiment.ts'
import { type ArmSums, readSums } from './read-sums.ts'

/** A look is asked for by one in so many exposed requests, when it is settled; and by an admin at any time. */
const LOOK_EVERY = 256

export interface Stop {
  readonly arm: string
  readonly metric: string
  readonly margin: number
  readonly difference: number
  /** Lower end of the interval, above the margin. */
  readonly atLeast: number
}

/** By the random part of the request's id: no counter, which isolates could not share. */
export const isLookDue = (requestId: string): boolean => Number.parseInt(requestId.slice(0, 8), 16) % LOOK_EVERY === 0

/** Arms to stop. Over the life of the experiment, the chance that an arm no worse than its margins is stopped is below ALPHA. */
export function findStops(experiment: ExperimentRow, sums: readonly ArmSums[]): Stop[] {
  const [control, ...others] = experiment.arms
  const watched = others.filter((arm) => !arm.shadow && arm.stoppedAt === null)
  const { guardrails } = experiment
  // Each pair of arm and guardrail gets its part of what may go wrong.
  const pairs = others.filter((arm) => !arm.shadow).length * guardrails.length
  const sumsOf = (arm: string | undefined, metric: string) =>
    sums.find((found) => found.arm === arm && found.metric === metric)
  return watched.flatMap((arm) => {
    for (const { metric, margin } of guardrails) {
      const [from, to] = [sumsOf(control?.id, metric), sumsOf(arm.id, metric)]
      const found = from && to && compareArms(from, to, ALPHA / pairs)
      if (found?.interval && found.interval[0] > margin) {
        return [{ arm: arm.id, metric, margin, difference: found.difference, atLeast: found.interval[0] }]
      }
    }
    return []
  })
}

/** Undefined: no such experiment. Only a running one has arms to stop. */
export async function enforceGuardrails(
  c: GatewayContext,
  tenantId: string,
  id: string,
  actor?: string,
): Promise<Stop[] | undefined> {
  const db = c.get('db')
  const experiment = await readExperiment(db, tenantId, id)
  if (experiment?.status !== 'running' || experiment.guardrails.length === 0) return experiment && []
  const stops = findStops(experiment, await readSums(db, experiment))
  for (const stop of stops) await stopArm(c, experiment, stop, actor)
  return stops
}

async function stopArm(c: GatewayContext, experiment: ExperimentRow, stop: Stop, actor?: string): Promise<void> {
  const { tenantId, id } = experiment
  const { arm, ...stoppedBy } = stop
  const stoppedAt = c.get('world').now()
  const write = c
    .get('db')
    .update(arms)
    .set({ stoppedAt, stoppedBy })
    .where(and(eq(arms.tenantId, tenantId), eq(arms.experimentId, id), eq(arms.id, arm)))
  const before = experiment.arms.find((row) => row.id === arm)
  try {
    await recordChange(c, {
      action: 'experiment.stop-arm',
      resource: `${tenantId}/${id}/${arm}`,
      before,
      after: before && { ...before, stoppedAt, stoppedBy },
      writes: [write],
      ...(actor === undefined ? {} : { actor }),
    })
    log('guardrail.stopped', { experiment: `${tenantId}/${id}`, ...stop })
  } catch (error) {
    // Another look came to the same end first.
    if (!(error instanceof GatewayError && error.message === 'changed_meanwhile')) throw error
  }
}
