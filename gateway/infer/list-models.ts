// `/v1/models`: exactly the models that a request could use now, and nothing that hints at the others.

import { type GatewayContext, userPolicy } from '../context.ts'
import { modelNotFound } from '../errors.ts'
import { bucketArm } from '../experiment/assign-arm.ts'
import { AUTO, autoModels } from '../policy/auto-models.ts'
import { isGranted, type Model, type Policy } from '../policy/policy.ts'
import type { Target } from '../policy/resolve-grants.ts'
import { armFor, readAssignment, subjectDigest } from './choose-target.ts'

interface ModelObject {
  readonly id: string
  readonly object: 'model'
  readonly created: number
  readonly owned_by: string
  /** The public name of the bare base that it runs on, where the caller may use that too. */
  readonly parent: string | null
}

const controlOf = (model: Model): Target | undefined =>
  model.serves.kind === 'target' ? model.serves.target : model.serves.experiment.arms[0]?.target

/** What may be used but not listed is used by those who know its name. */
const isListed = (policy: Policy, target: Target, now: number): boolean =>
  isGranted(policy, target, now) && isGranted(policy, target, now, 'list')

async function isUsable(c: GatewayContext, policy: Policy, model: Model, now: number): Promise<boolean> {
  if (model.serves.kind === 'target') return isListed(policy, model.serves.target, now)
  const { experiment } = model.serves
  const control = experiment.arms[0]
  if (control && isListed(policy, control.target, now)) return true
  if (!experiment.running || !experiment.arms.some((arm) => isGranted(policy, arm.target, now))) return false
  const subject = await subjectDigest(policy)
  const sticky = await readAssignment(c.get('db'), policy, experiment, subject)
  const arm = armFor(policy, experiment, sticky ?? bucketArm(experiment, subject)?.id, now)
  return arm !== undefined && isListed(policy, arm.target, now)
}

async function usableModels(c: GatewayContext): Promise<ModelObject[]> {
  const policy = userPolicy(c)
  const now = c.get('world').now()
  const usable: Model[] = []
  for (const model of policy.registry.models.values()) if (await isUsable(c, policy, model, now)) usable.push(model)
  const isBareBase = (model: Model, digest: string | undefined) =>
    model.serves.kind === 'target' && model.serves.target.kind === 'base' && model.serves.target.baseDigest === digest
  const objects = usable.map((model): ModelObject => {
    const base = usable.find((other) => other !== model && isBareBase(other, controlOf(model)?.baseDigest))
    return {
      id: model.name,
      object: 'model',
      created: Math.floor(model.createdAt / 1000),
      owned_by: policy.subject.tenantId,
      parent: controlOf(model)?.kind === 'base' && model.serves.kind === 'target' ? null : (base?.name ?? null),
    }
  })
  const [first] = autoModels(policy.registry, AUTO).flatMap(({ name }) => objects.find(({ id }) => id === name) ?? [])
  return first === undefined ? objects : [...objects, { ...first, id: AUTO }]
}

export async function listModels(c: GatewayContext): Promise<Response> {
  return c.json({ object: 'list', data: await usableModels(c) })
}

export async function getModel(c: GatewayContext, name: string): Promise<Response> {
  const found = (await usableModels(c)).find((model) => model.id === name)
  if (found === undefined) throw modelNotFound()
  return c.json(found)
}
