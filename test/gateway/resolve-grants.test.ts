// The decision as a pure function: properties that hold for all grants, then the rules one by one.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ACTIONS, type Action } from '../../gateway/policy/actions.ts'
import { indexGrants } from '../../gateway/policy/index-grants.ts'
import {
  type Decision,
  type Grant,
  resolveGrants as resolveAbout,
  type Subject,
  type Target,
} from '../../gateway/policy/resolve-grants.ts'

const NOW = 1000
const tenant = fc.constantFrom('acme', 'zeta')
const baseDigest = fc.constantFrom('base-a', 'base-b')
const id = fc.constantFrom('x', 'y', 'z')
const tag = fc.constantFrom('hr', 'beta')
const tags = fc.uniqueArray(tag)
const time = fc.option(fc.integer({ min: NOW - 3, max: NOW + 3 }))

const grantArb: fc.Arbitrary<Grant> = fc.record({
  tenantId: tenant,
  id: fc.string({ minLength: 1, maxLength: 3 }),
  effect: fc.constantFrom('allow' as const, 'deny' as const),
  actions: fc.uniqueArray(fc.constantFrom(...ACTIONS), { minLength: 1 }),
  principal: fc.oneof(
    fc.constant({ kind: 'tenant' as const }),
    fc.record({ kind: fc.constantFrom('key' as const, 'user' as const, 'group' as const, 'role' as const), id }),
  ),
  resource: fc.oneof(
    fc.record({ kind: fc.constant('adapter' as const), id }),
    fc.record({ kind: fc.constant('tag' as const), tag }),
    fc.record({ kind: fc.constant('base' as const), digest: baseDigest }),
  ),
  startsAt: time,
  endsAt: time,
})
const grantsArb = fc.array(grantArb, { maxLength: 12 })
const memberships = fc.uniqueArray(fc.record({ id, enabled: fc.boolean() }), {
  selector: (one) => one.id,
  maxLength: 3,
})
const subjectArb: fc.Arbitrary<Subject> = fc.record({
  tenantId: tenant,
  keyId: fc.option(id),
  userId: fc.option(id),
  groups: memberships,
  roles: memberships,
  scopes: fc.option(fc.uniqueArray(fc.constantFrom(...ACTIONS)), { freq: 3 }),
})
const targetArb: fc.Arbitrary<Target> = fc.oneof(
  fc.record({
    kind: fc.constant('adapter' as const),
    tenantId: tenant,
    id,
    digest: id,
    baseDigest,
    enabled: fc.boolean(),
    tags,
  }),
  fc.record({ kind: fc.constant('base' as const), baseDigest, enabled: fc.boolean() }),
)
/** Over all grants as they are; that an index of them gives the same is a property below. */
const resolveGrants = (
  subject: Subject,
  grants: readonly Grant[],
  target: Target,
  now: number,
  action: Action = 'infer',
): Decision => resolveAbout(subject, () => grants, target, action, now)
const allowed = (subject: Subject, grants: readonly Grant[], target: Target) =>
  resolveGrants(subject, grants, target, NOW).allowed

describe('the decision (invariant 6)', () => {
  it('allows nothing without a grant', () => {
    fc.assert(fc.property(subjectArb, targetArb, (subject, target) => !allowed(subject, [], target)))
  })

  it('never adds access when a deny is added', () => {
    fc.assert(
      fc.property(subjectArb, grantsArb, grantArb, targetArb, (subject, grants, extra, target) => {
        const more = [...grants, { ...extra, effect: 'deny' as const }]
        return !allowed(subject, more, target) || allowed(subject, grants, target)
      }),
    )
  })

  it('never takes access away when an allow is added', () => {
    fc.assert(
      fc.property(subjectArb, grantsArb, grantArb, targetArb, (subject, grants, extra, target) => {
        const more = [...grants, { ...extra, effect: 'allow' as const }]
        return allowed(subject, more, target) || !allowed(subject, grants, target)
      }),
    )
  })

  it('does not depend on the order of grants, not even in the grant that it names', () => {
    const shuffled = grantsArb.chain((grants) =>
      fc.tuple(
        fc.constant(grants),
        fc.shuffledSubarray(grants, { minLength: grants.length, maxLength: grants.length }),
      ),
    )
    fc.assert(
      fc.property(subjectArb, shuffled, targetArb, (subject, [grants, other], target) => {
        expect(resolveGrants(subject, other, target, NOW)).toEqual(resolveGrants(subject, grants, target, NOW))
      }),
    )
  })

  it('allows adapters of the own tenant only', () => {
    fc.assert(
      fc.property(subjectArb, grantsArb, targetArb, (subject, grants, target) => {
        if (target.kind === 'adapter' && target.tenantId !== subject.tenantId)
          expect(allowed(subject, grants, target)).toBe(false)
      }),
    )
  })

  it('is not changed by grants of another tenant', () => {
    fc.assert(
      fc.property(subjectArb, grantsArb, targetArb, (subject, grants, target) => {
        const own = grants.filter((grant) => grant.tenantId === subject.tenantId)
        expect(resolveGrants(subject, own, target, NOW)).toEqual(resolveGrants(subject, grants, target, NOW))
      }),
    )
  })

  it('never adds access when a role, a group, or the target, is disabled', () => {
    fc.assert(
      fc.property(subjectArb, grantsArb, targetArb, (subject, grants, target) => {
        const disabled = (all: Subject['roles']) => all.map((one) => ({ ...one, enabled: false }))
        const off = { ...subject, roles: disabled(subject.roles), groups: disabled(subject.groups) }
        expect(allowed(subject, grants, { ...target, enabled: false })).toBe(false)
        return !allowed(off, grants, target) || allowed(subject, grants, target)
      }),
    )
  })

  it('names an allow that applies to exactly this target', () => {
    fc.assert(
      fc.property(subjectArb, grantsArb, targetArb, (subject, grants, target) => {
        const decision = resolveGrants(subject, grants, target, NOW)
        if (!decision.allowed) return
        const named = grants.filter((grant) => grant.id === decision.grantId && grant.effect === 'allow')
        const kinds = target.kind === 'base' ? ['base'] : ['adapter', 'tag']
        expect(named.some((grant) => kinds.includes(grant.resource.kind))).toBe(true)
      }),
    )
  })
})

describe('acts, scopes and the index', () => {
  const action = fc.constantFrom(...ACTIONS)

  it('is about one act: grants of other acts change nothing', () => {
    fc.assert(
      fc.property(subjectArb, grantsArb, targetArb, action, (subject, grants, target, act) => {
        const about = grants.filter(({ actions }) => actions.includes(act))
        expect(resolveGrants(subject, about, target, NOW, act)).toEqual(
          resolveGrants(subject, grants, target, NOW, act),
        )
      }),
    )
  })

  it('takes away and never adds where a credential has scopes', () => {
    fc.assert(
      fc.property(subjectArb, grantsArb, targetArb, action, (subject, grants, target, act) => {
        const bare = resolveGrants({ ...subject, scopes: null }, grants, target, NOW, act)
        const scoped = resolveGrants({ ...subject, scopes: ACTIONS.filter((a) => a !== act) }, grants, target, NOW, act)
        expect(scoped).toEqual(bare.allowed ? { allowed: false, reason: 'out-of-scope' } : bare)
        expect(resolveGrants({ ...subject, scopes: [act] }, grants, target, NOW, act)).toEqual(bare)
      }),
    )
  })

  it('decides over an index of the grants as over all of them', () => {
    let met = 0
    fc.assert(
      fc.property(subjectArb, grantsArb, targetArb, action, (subject, grants, target, act) => {
        const found = resolveAbout(subject, indexGrants(grants), target, act, NOW)
        if (found.allowed) met += 1
        expect(found).toEqual(resolveGrants(subject, grants, target, NOW, act))
      }),
      { numRuns: 3_000 },
    )
    expect(met).toBeGreaterThan(20)
  })
})

describe('the decision, case by case', () => {
  const subject: Subject = {
    tenantId: 'acme',
    keyId: 'k',
    userId: 'u',
    groups: [{ id: 'g', enabled: true }],
    roles: [{ id: 'r', enabled: true }],
    scopes: null,
  }
  const adapter: Target = {
    kind: 'adapter',
    tenantId: 'acme',
    id: 'x',
    digest: 'd',
    baseDigest: 'b',
    enabled: true,
    tags: ['hr'],
  }
  const bare: Target = { kind: 'base', baseDigest: 'b', enabled: true }
  const grant = (more: Partial<Grant>): Grant => ({
    tenantId: 'acme',
    id: 'g',
    effect: 'allow',
    actions: ['infer'],
    principal: { kind: 'tenant' },
    resource: { kind: 'adapter', id: 'x' },
    startsAt: null,
    endsAt: null,
    ...more,
  })
  const base = { kind: 'base', digest: 'b' } as const

  it('reaches the principal by key, user, group, role and tenant', () => {
    for (const principal of [
      { kind: 'key', id: 'k' },
      { kind: 'user', id: 'u' },
      { kind: 'group', id: 'g' },
      { kind: 'role', id: 'r' },
      { kind: 'tenant' },
    ] as const) {
      expect(allowed(subject, [grant({ principal })], adapter)).toBe(true)
    }
    expect(
      allowed({ ...subject, userId: null, roles: [] }, [grant({ principal: { kind: 'user', id: 'u' } })], adapter),
    ).toBe(false)
  })

  it('does not take the id of one kind of principal for another', () => {
    expect(allowed(subject, [grant({ principal: { kind: 'user', id: 'k' } })], adapter)).toBe(false)
    expect(allowed(subject, [grant({ principal: { kind: 'key', id: 'r' } })], adapter)).toBe(false)
  })

  it('allows the bare base, and not its adapters, by a grant of the base', () => {
    expect(allowed(subject, [grant({ resource: base })], bare)).toBe(true)
    expect(allowed(subject, [grant({ resource: base })], adapter)).toBe(false)
  })

  it('denies what runs on a base by a deny of the base', () => {
    expect(
      resolveGrants(subject, [grant({}), grant({ id: 'no', effect: 'deny', resource: base })], adapter, NOW),
    ).toEqual({
      allowed: false,
      reason: 'denied',
      grantId: 'no',
    })
  })

  it('names by a tag the adapters that have it, and no base', () => {
    const hr = grant({ resource: { kind: 'tag', tag: 'hr' } })
    expect(allowed(subject, [hr], adapter)).toBe(true)
    expect(allowed(subject, [hr], { ...adapter, tags: [] })).toBe(false)
    expect(allowed(subject, [hr], bare)).toBe(false)
    const no = { ...hr, id: 'no', effect: 'deny' as const }
    expect(resolveGrants(subject, [grant({}), no], adapter, NOW)).toMatchObject({ reason: 'denied', grantId: 'no' })
  })

  it('opens at startsAt and closes at endsAt', () => {
    const windowed = [grant({ startsAt: 10, endsAt: 20 })]
    expect([9, 10, 19, 20].map((now) => resolveGrants(subject, windowed, adapter, now).allowed)).toEqual([
      false,
      true,
      true,
      false,
    ])
  })

  it('keeps the deny of a disabled role', () => {
    const disabled = { ...subject, roles: [{ id: 'r', enabled: false }] }
    const denied = [grant({}), grant({ id: 'no', effect: 'deny', principal: { kind: 'role', id: 'r' } })]
    expect(allowed(disabled, denied, adapter)).toBe(false)
    expect(allowed(disabled, [grant({ principal: { kind: 'role', id: 'r' } })], adapter)).toBe(false)
  })
})

describe('a target that adapters are merged into', () => {
  const parentArb = fc.record({
    kind: fc.constant('adapter' as const),
    tenantId: tenant,
    id,
    digest: id,
    baseDigest,
    enabled: fc.boolean(),
    tags,
  })
  const mergedArb = fc.record({ target: targetArb, madeOf: fc.array(parentArb, { minLength: 1, maxLength: 3 }) })

  it('is allowed exactly where it and every one of them is: the meet, and never more', () => {
    let met = 0
    // Half of the time with an allow for each, so that the answer is not always no.
    const withGrants = fc.tuple(subjectArb, grantsArb, mergedArb, fc.boolean())
    fc.assert(
      fc.property(withGrants, ([subject, some, { target, madeOf }, granted]) => {
        const each = [target, ...madeOf].map(
          (one): Grant => ({
            tenantId: subject.tenantId,
            id: 'all',
            effect: 'allow',
            actions: ['infer'],
            principal: { kind: 'tenant' },
            resource:
              one.kind === 'adapter' ? { kind: 'adapter', id: one.id } : { kind: 'base', digest: one.baseDigest },
            startsAt: null,
            endsAt: null,
          }),
        )
        const grants = granted ? [...some, ...each] : some
        const found = allowed(subject, grants, { ...target, madeOf })
        if (found) met += 1
        expect(found).toBe([target, ...madeOf].every((one) => allowed(subject, grants, one)))
      }),
      { numRuns: 5_000 },
    )
    expect(met).toBeGreaterThan(50)
  })

  it('never gains from a deny, nor from another parent', () => {
    fc.assert(
      fc.property(subjectArb, grantsArb, grantArb, mergedArb, parentArb, (subject, grants, extra, merged, parent) => {
        const { target, madeOf } = merged
        const before = allowed(subject, grants, { ...target, madeOf })
        const denied = [...grants, { ...extra, effect: 'deny' as const }]
        expect(!allowed(subject, denied, { ...target, madeOf }) || before).toBe(true)
        expect(!allowed(subject, grants, { ...target, madeOf: [...madeOf, parent] }) || before).toBe(true)
      }),
    )
  })

  it('names the parent that decided, and only then', () => {
    fc.assert(
      fc.property(subjectArb, grantsArb, mergedArb, (subject, grants, { target, madeOf }) => {
        const decision = resolveGrants(subject, grants, { ...target, madeOf }, NOW)
        const alone = resolveGrants(subject, grants, target, NOW)
        const refused = alone.allowed ? madeOf.find((parent) => !allowed(subject, grants, parent)) : undefined
        expect(decision).toEqual(
          refused === undefined ? alone : { ...resolveGrants(subject, grants, refused, NOW), parent: refused.id },
        )
      }),
    )
  })
})
