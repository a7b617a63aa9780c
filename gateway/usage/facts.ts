// What a decision was made on, kept so that it can be made again: the caller, the models of the name, the grants about them.
import { sha256 } from '../digest.ts'
import { parseModel } from '../infer/parse-model.ts'
import { type Model, type Policy, targetsOf } from '../policy/policy.ts'
import type { Grant, Subject } from '../policy/resolve-grants.ts'

export interface Facts {
  readonly subject: Subject
  readonly models: readonly Model[]
  readonly grants: readonly Grant[]
}

export interface KeptFacts {
  readonly digest: string
  readonly text: string
  /** With the ledger, or in the database. */
  written: boolean
}

/** Mixes may be spelt in many ways; policies live for as long as nothing changes. */
const MAX_NAMES = 64
const known = new WeakMap<Policy, Map<string, KeptFacts>>()

export function factsOf(policy: Policy, asked: string): Facts {
  const { name, mix } = parseModel(asked)
  const names = mix?.map((part) => part.name) ?? [name]
  const models = names.flatMap((one) => policy.registry.models.get(one) ?? [])
  const targets = models.flatMap(targetsOf).flatMap((target) => [target, ...(target.madeOf ?? [])])
  const grants = new Map(targets.flatMap(policy.grantsAbout).map((grant) => [grant.id, grant]))
  return { subject: policy.subject, models, grants: [...grants.values()].sort((a, b) => (a.id < b.id ? -1 : 1)) }
}

/** Once for each policy and name: a policy is of one epoch, so its facts do not change. */
export function factsFor(policy: Policy, asked: string): KeptFacts {
  const names = known.get(policy) ?? new Map<string, KeptFacts>()
  known.set(policy, names)
  const before = names.get(asked)
  if (before !== undefined) return before
  const text = JSON.stringify(factsOf(policy, asked))
  const kept = { digest: sha256(text), text, written: false }
  if (names.size >= MAX_NAMES) names.clear()
  names.set(asked, kept)
  return kept
}
