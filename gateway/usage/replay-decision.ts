// A decision made once more, from its record alone: by the code that makes decisions, on the facts that were kept.
import { sha256 } from '../digest.ts'
import { bucketArm } from '../experiment/assign-arm.ts'
import { chooseMix } from '../infer/choose-mix.ts'
import { armFor, subjectDigest } from '../infer/choose-target.ts'
import { parseModel } from '../infer/parse-model.ts'
import { indexGrants } from '../policy/index-grants.ts'
import { decide, type Policy } from '../policy/policy.ts'
import type { Target } from '../policy/resolve-grants.ts'
import { type Decided, receiptOf, recordPart } from './decided.ts'
import type { Facts } from './facts.ts'

export interface Replayed {
  /** Why the record is not what was decided; empty: it is. */
  readonly problems: readonly string[]
  /** The arm was that of an earlier assignment and not of the bucket. */
  readonly sticky: boolean
}

type Outcome = Pick<Decided, 'grantId' | 'baseDigest' | 'adapterId' | 'adapterDigest' | 'armId' | 'mix'>

export async function replayDecision(decided: Decided, receipt: string, factsText: string): Promise<Replayed> {
  const problems: string[] = []
  if (receiptOf(decided) !== receipt) {
    problems.push('the record was changed: its digest is not the receipt')
  }
  if (sha256(factsText) !== decided.factsDigest) {
    problems.push('the facts were changed: their digest is not the one in the record')
  }
  const facts: Facts = JSON.parse(factsText)
  const policy = policyOf(facts)
  const { outcome, sticky } = await decideAgain(policy, decided)
  if (outcome === undefined) problems.push('on these facts the request is refused')
  for (const field of Object.keys(outcome ?? {}) as (keyof Outcome)[]) {
    const [was, is] = [JSON.stringify(decided[field]), JSON.stringify(outcome?.[field])]
    if (was !== is) problems.push(`on these facts ${field} is ${is}, and the record says ${was}`)
  }
  return { problems, sticky }
}

/** As far as a decision looks at one. */
export function policyOf({ subject, models, grants }: Facts): Policy {
  return {
    subject,
    grantsAbout: indexGrants(grants),
    registry: {
      tenantId: subject.tenantId,
      maxTokens: 1,
      models: new Map(models.map((model) => [model.name, model])),
      backends: new Map(),
      experiments: new Map(),
      limits: new Map(),
      prices: { adapters: new Map(), bases: new Map() },
    },
  }
}

async function decideAgain(
  policy: Policy,
  { model: asked, createdAt, assignedArmId }: Decided,
): Promise<{ outcome: Outcome | undefined; sticky: boolean }> {
  const { name, mix } = parseModel(asked)
  const none = { outcome: undefined, sticky: false }
  if (mix !== null) {
    const target = chooseMix(policy, mix, createdAt)
    if (target === undefined) return none
    const { baseDigest, parts } = target
    const grantId = parts[0].grantId
    const outcome = {
      grantId,
      baseDigest,
      adapterId: null,
      adapterDigest: null,
      armId: null,
      mix: parts.map(recordPart),
    }
    return { outcome, sticky: false }
  }
  const serves = policy.registry.models.get(name)?.serves
  if (serves === undefined) return none
  if (serves.kind === 'target') return { outcome: outcomeOf(policy, serves.target, null, createdAt), sticky: false }
  const { experiment } = serves
  const control = experiment.arms[0]
  if (!experiment.running) {
    return { outcome: control && outcomeOf(policy, control.target, control.id, createdAt), sticky: false }
  }
  const bucket = bucketArm(experiment, await subjectDigest(policy))?.id
  const arm = armFor(policy, experiment, assignedArmId ?? bucket, createdAt)
  const sticky = assignedArmId !== null && assignedArmId !== bucket
  return { outcome: arm && outcomeOf(policy, arm.target, arm.id, createdAt), sticky }
}

function outcomeOf(policy: Policy, target: Target, armId: string | null, now: number): Outcome | undefined {
  const decision = decide(policy, target, now)
  if (!decision.allowed) return undefined
  const isAdapter = target.kind === 'adapter'
  return {
    grantId: decision.grantId,
    baseDigest: target.baseDigest,
    adapterId: isAdapter ? target.id : null,
    adapterDigest: isAdapter ? target.digest : null,
    armId,
    mix: null,
  }
}

/** Facts that are otherwise now than when it was decided, in words. */
export function changedFacts(then: Facts, now: Facts): string[] {
  const changes: string[] = []
  const compare = (what: string, was: unknown, is: unknown) => {
    const [before, after] = [JSON.stringify(was), JSON.stringify(is)]
    if (before === after) return
    if (was === undefined) changes.push(`${what} is new`)
    else if (is === undefined) changes.push(`${what} is gone or disabled`)
    else changes.push(`${what} was ${before} and is ${after}`)
  }
  for (const field of ['userId', 'groups', 'roles', 'scopes'] as const) {
    compare(`${field} of the caller`, then.subject[field], now.subject[field])
  }
  const names = new Set([...then.models, ...now.models].map(({ name }) => name))
  const model = (facts: Facts, name: string) => facts.models.find((one) => one.name === name)?.serves
  for (const name of names) compare(`model ${name}`, model(then, name), model(now, name))
  const ids = new Set([...then.grants, ...now.grants].map(({ id }) => id))
  const grant = (facts: Facts, id: string) => facts.grants.find((one) => one.id === id)
  for (const id of ids) compare(`grant ${id}`, grant(then, id), grant(now, id))
  return changes
}
