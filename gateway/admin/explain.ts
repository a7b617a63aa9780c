// "Why does this key get, or not get, this model?": the same snapshot and the same decision as a request, without one.
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { notFound } from '../errors.ts'
import { loadPolicy } from '../load-policy.ts'
import { decide } from '../policy.ts'
import { KeyId, ModelName, readBody } from './read-input.ts'

const Body = z.strictObject({ key: KeyId, model: ModelName })

export function addExplain(admin: Hono<GatewayEnv>): void {
  admin.post('/explain', async (c) => {
    const { key: keyId, model: name } = await readBody(c, Body)
    const now = c.get('world').now()
    const loaded = await loadPolicy(c.get('db'), keyId, now)
    if (!loaded?.policy) throw notFound()
    const { key, policy } = loaded
    const model = policy.models.find((candidate) => candidate.name === name)
    const targets =
      model?.serves.kind === 'target'
        ? [{ arm: null, target: model.serves.target }]
        : (model?.serves.experiment.arms.map(({ id, target }) => ({ arm: id, target })) ?? [])
    return c.json({
      live: key.live,
      model: model === undefined ? 'unknown-or-disabled' : 'known',
      targets: targets.map(({ arm, target }) => ({ arm, target, decision: decide(policy, target, now) })),
    })
  })
}
