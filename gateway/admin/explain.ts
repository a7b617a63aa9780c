// "Why does this key get, or not get, this model?": the same snapshot and the same decision as a request, without one.
import type { Hono } from 'hono'
import * as z from 'zod'
import { MAX_MODEL_CHARS } from '../../gpu-backend/contract.ts'
import type { GatewayEnv } from '../context.ts'
import { notFound } from '../errors.ts'
import { parseModel } from '../infer/parse-model.ts'
import { ACTIONS } from '../policy/actions.ts'
import { autoModels } from '../policy/auto-models.ts'
import { isLive, loadPolicy } from '../policy/load-policy.ts'
import { decide, type Model } from '../policy/policy.ts'
import type { Target } from '../policy/resolve-grants.ts'
import { KeyId, readBody } from './read-input.ts'

export const Body = z.strictObject({
  key: KeyId,
  model: z.string().min(1).max(MAX_MODEL_CHARS),
  action: z.enum(ACTIONS).default('infer'),
})

function targetsOf({ serves }: Model): { arm: string | null; target: Target }[] {
  if (serves.kind === 'target') return [{ arm: null, target: serves.target }]
  return serves.experiment.arms.map(({ id, target }) => ({ arm: id, target }))
}

export function addExplain(admin: Hono<GatewayEnv>): void {
  admin.post('/explain', async (c) => {
    const { key: keyId, model: asked, action } = await readBody(c, Body)
    const { name: plain, mix } = parseModel(asked)
    const now = c.get('world').now()
    const loaded = await loadPolicy(c.get('db'), { kind: 'key', keyId })
    if (!loaded?.policy || loaded.key === null) throw notFound()
    const { key, policy } = loaded
    const tried = autoModels(policy.registry, plain).map(({ name }) => name)
    const names = mix?.map(({ name }) => name) ?? (tried.length > 0 ? tried : [plain])
    const models = names.flatMap((name) => policy.registry.models.get(name) ?? [])
    const targets = models.flatMap((model) =>
      // Of a mix, and of what `auto` tries, with the name that each is for.
      targetsOf(model).map((found) => ({
        ...(names.length === 1 && mix === null ? {} : { part: model.name }),
        ...found,
      })),
    )
    return c.json({
      live: isLive(key, now),
      action,
      model: models.length < names.length ? 'unknown-or-disabled' : 'known',
      targets: targets.map((found) => ({ ...found, decision: decide(policy, found.target, now, action) })),
    })
  })
}
