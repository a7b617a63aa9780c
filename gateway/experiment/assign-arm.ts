// Which arm of an experiment a subject is in, by the hash alone; what was written down before comes first (read-assignment.ts).
import type { Arm, Experiment } from '../policy/policy.ts'
import { hashBucket, namespaceBucket, pickArm } from './hash-bucket.ts'

/** Arms that subjects are assigned to; their ranges lie in this order. */
export const assignable = (experiment: Experiment): readonly Arm[] => experiment.arms.filter((arm) => !arm.shadow)

/**
 * Bucketed over all arms, granted or not, stopped or not, so that neither permissions nor guardrails change the split.
 * Undefined: not in the experiment, since its namespace has the subject elsewhere or the ramp has not come so far.
 */
export function bucketArm(experiment: Experiment, subject: string): Arm | undefined {
  const { namespace, seed, coverage } = experiment
  if (namespace !== null) {
    const at = namespaceBucket(namespace.id, subject)
    if (at < namespace.start || at >= namespace.end) return undefined
  }
  return pickArm(assignable(experiment), hashBucket(seed, subject), coverage)
}
