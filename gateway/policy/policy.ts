// What one principal's request is decided on: a snapshot, read in one round trip, and the questions asked of it.
import type { Capability } from '../../gpu-backend/contract.ts'
import type { Guardrail, Namespace } from '../database/schema.ts'
import { parseModel } from '../infer/parse-model.ts'
import type { Limits } from '../limits/limit.ts'
import type { Prices } from '../limits/price.ts'
import type { UpstreamAddress } from '../upstream/driver.ts'
import type { Action } from './actions.ts'
import type { Decision, GrantsAbout, Subject, Target } from './resolve-grants.ts'
import { resolveGrants } from './resolve-grants.ts'

export interface Arm {
  readonly id: string
  readonly weight: number
  readonly target: Target
  /** Gets copies of requests, and no subjects. */
  readonly shadow: boolean
  /** By a guardrail: its subjects get the control. */
  readonly stopped: boolean
}

export interface Experiment {
  readonly id: string
  readonly seed: string
  readonly bucketVersion: number
  readonly running: boolean
  /** Of 10,000. */
  readonly coverage: number
  readonly namespace: Namespace | null
  readonly guardrails: readonly Guardrail[]
  /** In order; the first is the control. */
  readonly arms: readonly Arm[]
}

export interface Model {
  readonly name: string
  readonly createdAt: number
  /** Its place among those that `auto` tries; none: not among them. */
  readonly autoRank?: number | null
  readonly serves:
    | { readonly kind: 'target'; readonly target: Target }
    | { readonly kind: 'experiment'; readonly experiment: Experiment }
}

export interface Backend extends UpstreamAddress {
  readonly id: string
  readonly baseDigest: string
  readonly draining: boolean
  /** What a foreign backend calls the adapters that it was found to serve, by digest. */
  readonly adapters: ReadonlyMap<string, string>
}

/** What a tenant has, whoever asks; shared by the policies of all its principals. */
export interface Registry {
  readonly tenantId: string
  readonly maxTokens: number
  /** Enabled models of the tenant, granted or not, by public name and in its order. */
  readonly models: ReadonlyMap<string, Model>
  /** All of the tenant, whether a model leads to them or not. */
  readonly experiments: ReadonlyMap<string, Experiment>
  /** Enabled backends by the digest of their base. */
  readonly backends: ReadonlyMap<string, readonly Backend[]>
  /** Enabled ones. */
  readonly limits: Limits
  readonly prices: Prices
}

export interface Policy {
  readonly subject: Subject
  readonly grantsAbout: GrantsAbout
  readonly registry: Registry
}

export function decide(policy: Policy, target: Target, now: number, action: Action = 'infer'): Decision {
  return resolveGrants(policy.subject, policy.grantsAbout, target, action, now)
}

export function isGranted(policy: Policy, target: Target, now: number, action: Action = 'infer'): boolean {
  return decide(policy, target, now, action).allowed
}

/** Every target that some enabled model leads to. */
export function targetsOf(model: Model): readonly Target[] {
  return model.serves.kind === 'target' ? [model.serves.target] : model.serves.experiment.arms.map((arm) => arm.target)
}

/**
 * The last question before dispatch, asked of what is about to be signed rather than of what was looked up:
 * does this model of this principal lead to these digests, and is that granted?
 */
export function mayDispatch(
  policy: Policy,
  claims: Pick<Capability, 'model' | 'base' | 'adapter'>,
  now: number,
): boolean {
  const { adapter } = claims
  const { name, mix } = parseModel(claims.model)
  const names = mix?.map((part) => part.name) ?? [name]
  const wanted = adapter === null || typeof adapter === 'string' ? [adapter] : adapter.map(({ digest }) => digest)
  // A mix is of adapters, and only a mix is of several.
  if (mix === null ? wanted.length !== 1 || adapter !== wanted[0] : wanted.length === 0 || adapter === null)
    return false
  const targets = names.flatMap((name) => {
    const model = policy.registry.models.get(name)
    return model === undefined ? [] : targetsOf(model)
  })
  return wanted.every((digest) =>
    targets.some(
      (target) =>
        target.baseDigest === claims.base &&
        (target.kind === 'adapter' ? target.digest : null) === digest &&
        isGranted(policy, target, now),
    ),
  )
}
