// From a public model name to the one thing that will run: the target itself, or the experiment's arm for this subject.
// Authorised each time: an assignment made last week gives no access today.
import { and, eq } from 'drizzle-orm'
import type { DrizzleD1Database } from 'drizzle-orm/d1'
import { assignments } from '../database/records.ts'
import { sha256 } from '../digest.ts'
import { bucketArm } from '../experiment/assign-arm.ts'
import { autoModels } from '../policy/auto-models.ts'
import { type Arm, decide, type Experiment, isGranted, type Model, type Policy } from '../policy/policy.ts'
import type { Target } from '../policy/resolve-grants.ts'
import { chooseMix, type MixTarget } from './choose-mix.ts'
import type { AskedModel } from './parse-model.ts'

export interface Assignment {
  readonly experimentId: string
  readonly bucketVersion: number
  readonly subject: string
  readonly assignedArmId: string
}

export interface Choice {
  readonly model: string
  readonly target: Target | MixTarget
  /** Of the first part, where it is a mix. */
  readonly grantId: string
  /** The arm that runs, where the model is an experiment. */
  readonly arm: { readonly experimentId: string; readonly bucketVersion: number; readonly id: string } | null
  /** What to record as an exposure; null outside a running experiment. */
  readonly exposure: (Assignment & { readonly servedArmId: string }) | null
  /** Shadow arms that this caller may use: each gets a copy of the request, after an exposure. */
  readonly shadows: readonly Shadow[]
}

export interface Shadow {
  readonly armId: string
  readonly target: Target
  readonly grantId: string
}

/** A policy is one caller's. */
const subjects = new WeakMap<Policy, string>()

/**
 * The subject that is bucketed: the user where the key has one, else the key. Hex, so that every SDK hashes it alike;
 * without a secret, since rotating one would move everybody to another arm.
 */
export function subjectDigest(policy: Policy): string {
  const { tenantId, userId, keyId } = policy.subject
  if (userId === null && keyId === null) throw new Error('a caller who is neither key nor user')
  const known = subjects.get(policy)
  if (known !== undefined) return known
  const digest = sha256(JSON.stringify([tenantId, userId === null ? 'key' : 'user', userId ?? keyId]))
  subjects.set(policy, digest)
  return digest
}

/**
 * The arm to run, given the arm that the subject is assigned to: that one, unless it is stopped or not granted; else the
 * control, which also serves those who are in no arm; else none.
 */
export function armFor(
  policy: Policy,
  experiment: Experiment,
  assignedArmId: string | undefined,
  now: number,
): Arm | undefined {
  const assigned = experiment.arms.find((arm) => arm.id === assignedArmId && !arm.stopped)
  return [assigned, experiment.arms[0]].find((arm) => arm !== undefined && isGranted(policy, arm.target, now))
}

const sameSubject = (policy: Policy, experiment: Experiment, subject: string) =>
  and(
    eq(assignments.tenantId, policy.subject.tenantId),
    eq(assignments.experimentId, experiment.id),
    eq(assignments.bucketVersion, experiment.bucketVersion),
    eq(assignments.subject, subject),
  )

export async function readAssignment(
  db: DrizzleD1Database,
  policy: Policy,
  experiment: Experiment,
  subject: string,
): Promise<string | undefined> {
  const [row] = await db
    .select()
    .from(assignments)
    .where(sameSubject(policy, experiment, subject))
  return row?.armId
}

/**
 * Arms that the database has for subjects: written once and never changed, so not asked for again while the registry stays
 * as it is. A row that somebody changes by hand holds from the next change of the registry.
 */
const assigned = new WeakMap<Experiment, Map<string, string>>()
/** Of an isolate's 128 MB: a subject takes some 150 bytes. */
const MAX_ASSIGNED = 20_000

async function assign(
  db: DrizzleD1Database,
  policy: Policy,
  experiment: Experiment,
  subject: string,
  now: number,
): Promise<string | undefined> {
  const known = assigned.get(experiment) ?? new Map<string, string>()
  const armId = known.get(subject) ?? (await storeAssignment(db, policy, experiment, subject, now))
  if (armId === undefined) return undefined
  if (known.size >= MAX_ASSIGNED) known.clear()
  known.set(subject, armId)
  assigned.set(experiment, known)
  return armId
}

/**
 * Write once, then read: of two concurrent first requests both get the arm of the one that was stored. Undefined: not in
 * the experiment; who once was stays in it, also when the ramp is taken back.
 */
async function storeAssignment(
  db: DrizzleD1Database,
  policy: Policy,
  experiment: Experiment,
  subject: string,
  now: number,
): Promise<string | undefined> {
  const arm = bucketArm(experiment, subject)
  if (arm === undefined) return readAssignment(db, policy, experiment, subject)
  const [, rows] = await db.batch([
    db
      .insert(assignments)
      .values({
        tenantId: policy.subject.tenantId,
        experimentId: experiment.id,
        bucketVersion: experiment.bucketVersion,
        subject,
        armId: arm.id,
        createdAt: now,
      })
      .onConflictDoNothing(),
    db
      .select()
      .from(assignments)
      .where(sameSubject(policy, experiment, subject)),
  ])
  const row = rows[0]
  if (row === undefined) throw new Error('an assignment that was just written is not there')
  return row.armId
}

function choose(
  policy: Policy,
  model: Model,
  target: Target,
  now: number,
  rest: Pick<Choice, 'arm' | 'exposure'> & Partial<Choice>,
): Choice | undefined {
  const decision = decide(policy, target, now)
  return decision.allowed ? { model: model.name, target, grantId: decision.grantId, shadows: [], ...rest } : undefined
}

function shadowsOf(policy: Policy, experiment: Experiment, now: number): Shadow[] {
  return experiment.arms.flatMap(({ id: armId, target, shadow, stopped }) => {
    const decision = decide(policy, target, now)
    return shadow && !stopped && decision.allowed ? [{ armId, target, grantId: decision.grantId }] : []
  })
}

/** Undefined: unknown, forbidden, expired, disabled, another tenant's. The caller cannot tell which, nor may we say. */
export async function chooseTarget(
  db: DrizzleD1Database,
  policy: Policy,
  { name, mix }: AskedModel,
  now: number,
): Promise<Choice | undefined> {
  if (mix !== null) {
    const target = chooseMix(policy, mix, now)
    return target && { model: name, target, grantId: target.parts[0].grantId, arm: null, exposure: null, shadows: [] }
  }
  for (const model of autoModels(policy.registry, name)) {
    const choice = await chooseTarget(db, policy, { name: model.name, mix: null }, now)
    if (choice !== undefined) return choice
  }
  const model = policy.registry.models.get(name)
  if (model === undefined) return undefined
  if (model.serves.kind === 'target') {
    return choose(policy, model, model.serves.target, now, { arm: null, exposure: null })
  }
  const { experiment } = model.serves
  const { id: experimentId, bucketVersion } = experiment
  const control = experiment.arms[0]
  if (!experiment.running) {
    const arm = control && { experimentId, bucketVersion, id: control.id }
    return arm && choose(policy, model, control.target, now, { arm, exposure: null })
  }
  if (!experiment.arms.some((arm) => isGranted(policy, arm.target, now))) return undefined
  const subject = await subjectDigest(policy)
  const assignedArmId = await assign(db, policy, experiment, subject, now)
  const served = armFor(policy, experiment, assignedArmId, now)
  if (served === undefined) return undefined
  const arm = { experimentId, bucketVersion, id: served.id }
  if (assignedArmId === undefined) return choose(policy, model, served.target, now, { arm, exposure: null })
  return choose(policy, model, served.target, now, {
    arm,
    exposure: { experimentId, bucketVersion, subject, assignedArmId, servedArmId: served.id },
    shadows: shadowsOf(policy, experiment, now),
  })
}
