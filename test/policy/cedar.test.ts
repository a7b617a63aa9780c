// The decision against Cedar, whose semantics (default deny, forbid overrides permit) are specified and proven: on random
// worlds both give the same answer, and the grant that ours names is one of those that Cedar gives as its reasons.
import { type EntityJson, preparsePolicySet, statefulIsAuthorized } from '@cedar-policy/cedar-wasm/nodejs'
import { describe, expect, it } from 'vitest'
import { ACTIONS, type Action } from '../../gateway/policy/actions.ts'
import { indexGrants } from '../../gateway/policy/index-grants.ts'
import {
  type AdapterTarget,
  type Grant,
  resolveGrants,
  type Subject,
  type Target,
} from '../../gateway/policy/resolve-grants.ts'

/** Sets of grants, which Cedar parses once each, and the questions asked of each by another caller about another target. */
const GRANT_SETS = 20_000
const QUESTIONS = 5
const SEED = 20_261_124

interface World {
  readonly subject: Subject
  readonly grants: readonly Grant[]
  readonly target: Target
  readonly action: Action
  readonly now: number
}

const GUARD =
  'forbid (principal, action, resource) when { !resource.enabled || (principal has scopes && !principal.scopes.contains(context.act)) };'

/** A grant in Cedar's own words. */
function policyOf({ tenantId, effect, actions, principal, resource, startsAt, endsAt }: Grant): string {
  const verb = effect === 'allow' ? 'permit' : 'forbid'
  // A group or role that is disabled still denies.
  const membership = { group: 'Group', role: 'Role' } as const
  const holder =
    principal.kind === 'tenant'
      ? `Tenant::"${tenantId}"`
      : principal.kind === 'group' || principal.kind === 'role'
        ? `${effect === 'allow' ? 'Enabled' : ''}${membership[principal.kind]}::"${principal.id}"`
        : `${principal.kind === 'key' ? 'Key' : 'User'}::"${principal.id}"`
  const acts = actions.map((action) => `Action::"${action}"`).join(', ')
  const named =
    resource.kind === 'adapter'
      ? `resource == Adapter::"${tenantId}/${resource.id}"`
      : resource.kind === 'tag'
        ? `resource in Tag::"${tenantId}/${resource.tag}"`
        : effect === 'allow'
          ? `resource == Base::"${resource.digest}"`
          : `resource in RunsOn::"${resource.digest}"`
  const conditions = [
    `principal in Tenant::"${tenantId}"`,
    ...(startsAt === null ? [] : [`context.now >= ${startsAt}`]),
    ...(endsAt === null ? [] : [`context.now < ${endsAt}`]),
  ]
  return `${verb} (principal in ${holder}, action in [${acts}], ${named}) when { ${conditions.join(' && ')} };`
}

const uid = (type: string, id: string) => ({ type, id })

function callerOf({ tenantId, keyId, userId, groups, roles, scopes }: Subject): EntityJson {
  const members = (type: string, all: Subject['groups']) =>
    all.flatMap(({ id, enabled }) => [uid(type, id), ...(enabled ? [uid(`Enabled${type}`, id)] : [])])
  return {
    uid: uid('Caller', 'me'),
    attrs: scopes === null ? {} : { scopes: [...scopes] },
    parents: [
      uid('Tenant', tenantId),
      ...(keyId === null ? [] : [uid('Key', keyId)]),
      ...(userId === null ? [] : [uid('User', userId)]),
      ...members('Group', groups),
      ...members('Role', roles),
    ],
  }
}

function resourceOf(target: Target): EntityJson {
  if (target.kind === 'base') {
    return {
      uid: uid('Base', target.baseDigest),
      attrs: { enabled: target.enabled },
      parents: [uid('RunsOn', target.baseDigest)],
    }
  }
  return {
    uid: uid('Adapter', `${target.tenantId}/${target.id}`),
    attrs: { enabled: target.enabled },
    parents: [uid('RunsOn', target.baseDigest), ...target.tags.map((tag) => uid('Tag', `${target.tenantId}/${tag}`))],
  }
}

function askCedar({ subject, action, now }: World, target: Target) {
  const resource = resourceOf(target)
  const answer = statefulIsAuthorized({
    principal: uid('Caller', 'me'),
    action: uid('Action', action),
    resource: resource.uid,
    context: { now, act: action },
    preparsedPolicySetId: 'grants',
    entities: [callerOf(subject), resource],
  })
  if (answer.type !== 'success') throw new Error(JSON.stringify(answer))
  expect(answer.response.diagnostics.errors).toEqual([])
  return { allowed: answer.response.decision === 'allow', reasons: answer.response.diagnostics.reason }
}

/** mulberry32: small worlds, so that grants and targets meet often. */
function createRandom(seed: number) {
  let state = seed
  const next = () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  const int = (below: number) => Math.floor(next() * below)
  const pick = <T>(all: readonly T[]): T => all[int(all.length)] as T
  const some = <T>(all: readonly T[], share = 0.5) => all.filter(() => next() < share)
  return { chance: (p: number) => next() < p, int, pick, some }
}

function createWorlds(random: ReturnType<typeof createRandom>) {
  const { chance, int, pick, some } = random
  const tenants = ['acme', 'zeta']
  const ids = ['x', 'y']
  const memberships = () => some(ids).map((id) => ({ id, enabled: chance(0.7) }))
  const time = () => (chance(0.7) ? null : int(8))
  const atLeastOne = (): Action[] => {
    const actions = some(ACTIONS)
    return actions.length > 0 ? actions : [pick(ACTIONS)]
  }
  const grant = (_: unknown, at: number): Grant => ({
    tenantId: chance(0.8) ? 'acme' : 'zeta',
    id: `g${at}`,
    effect: chance(0.7) ? 'allow' : 'deny',
    actions: atLeastOne(),
    principal: chance(0.3)
      ? { kind: 'tenant' }
      : { kind: pick(['key', 'user', 'group', 'role'] as const), id: pick(ids) },
    resource: pick([
      { kind: 'adapter', id: pick(ids) },
      { kind: 'tag', tag: pick(['hr', 'beta']) },
      { kind: 'base', digest: pick(['b', 'c']) },
    ] as const),
    startsAt: time(),
    endsAt: time(),
  })
  const adapter = (): AdapterTarget => ({
    kind: 'adapter',
    tenantId: chance(0.9) ? 'acme' : 'zeta',
    id: pick(ids),
    digest: 'd',
    baseDigest: pick(['b', 'c']),
    enabled: chance(0.9),
    tags: some(['hr', 'beta']),
  })
  return {
    grants: (): readonly Grant[] => Array.from({ length: int(9) }, grant),
    worldOf(grants: readonly Grant[]): World {
      const base: Target = { kind: 'base', baseDigest: pick(['b', 'c']), enabled: chance(0.9) }
      const target = chance(0.7) ? adapter() : base
      return {
        subject: {
          tenantId: chance(0.9) ? 'acme' : pick(tenants),
          keyId: chance(0.8) ? pick(ids) : null,
          userId: chance(0.8) ? pick(ids) : null,
          groups: memberships(),
          roles: memberships(),
          scopes: chance(0.8) ? null : some(ACTIONS),
        },
        grants,
        target: chance(0.8) ? target : { ...target, madeOf: Array.from({ length: 1 + int(2) }, adapter) },
        action: pick(ACTIONS),
        now: int(8),
      }
    },
  }
}

describe('the decision and Cedar’s', () => {
  it(`are the same on ${GRANT_SETS * QUESTIONS} random worlds`, () => {
    const worlds = createWorlds(createRandom(SEED))
    const met = { allowed: 0, denied: 0, nothing: 0, 'through its parents': 0 }
    for (let n = 0; n < GRANT_SETS; n++) {
      const grants = worlds.grants()
      const staticPolicies = { guard: GUARD, ...Object.fromEntries(grants.map((grant) => [grant.id, policyOf(grant)])) }
      expect(preparsePolicySet('grants', { staticPolicies })).toEqual({ type: 'success' })
      const about = indexGrants(grants)
      for (let q = 0; q < QUESTIONS; q++) {
        const world = worlds.worldOf(grants)
        const { subject, target, action, now } = world
        const decision = resolveGrants(subject, about, target, action, now)
        const answers = [target, ...(target.madeOf ?? [])].map((one) => askCedar(world, one))
        if (decision.allowed !== answers.every(({ allowed }) => allowed)) {
          const said = `ours ${JSON.stringify(decision)}, Cedar's ${JSON.stringify(answers)}`
          throw new Error(`seed ${SEED}, set ${n}, question ${q}: ${said} of ${JSON.stringify(world)}`)
        }
        if ('grantId' in decision) expect(answers.flatMap(({ reasons }) => reasons)).toContain(decision.grantId)
        if (decision.allowed) met.allowed += 1
        else if (decision.reason === 'denied') met.denied += 1
        else met.nothing += 1
        if (!decision.allowed && decision.parent !== undefined) met['through its parents'] += 1
      }
    }
    // Worlds in which nothing ever meets would agree too.
    for (const [what, count] of Object.entries(met)) expect([what, count > GRANT_SETS / 100]).toEqual([what, true])
  }, 600_000)
})
