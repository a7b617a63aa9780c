// The decision as a pure function: properties that hold for all grants, then the rules one by one.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Grant, resolveGrants, type Subject, type Target } from '../../gateway/policy/resolve-grants.ts'

const NOW = 1000
const tenant = fc.constantFrom('acme', 'zeta')
const baseDigest = fc.constantFrom('base-a', 'base-b')
const id = fc.constantFrom('x', 'y', 'z')
const time = fc.option(fc.integer({ min: NOW - 3, max: NOW + 3 }))

const grantArb: fc.Arbitrary<Grant> = fc.record({
  tenantId: tenant,
  id: fc.string({ minLength: 1, maxLength: 3 }),
  effect: fc.constantFrom('allow' as const, 'deny' as const),
  principal: fc.oneof(
    fc.constant({ kind: 'tenant' as const }),
    fc.record({ kind: fc.constantFrom('key' as const, 'user' as const, 'role' as const), id }),
  ),
  resource: fc.oneof(
    fc.record({ kind: fc.constant('adapter' as const), id }),
    fc.record({ kind: fc.constant('base' as const), digest: baseDigest }),
  ),
  startsAt: time,
  endsAt: time,
})
const grantsArb = fc.array(grantArb, { maxLength: 12 })
const subjectArb: fc.Arbitrary<Subject> = fc.record({
  tenantId: tenant,
  keyId: id,
  userId: fc.option(id),
  roles: fc.uniqueArray(fc.record({ id, enabled: fc.boolean() }), { selector: (role) => role.id, maxLength: 3 }),
})
const targetArb: fc.Arbitrary<Target> = fc.oneof(
  fc.record({
    kind: fc.constant('adapter' as const),
    tenantId: tenant,
    id,
    digest: id,
    baseDigest,
    enabled: fc.boolean(),
  }),
  fc.record({ kind: fc.constant('base' as const), baseDigest, enabled: fc.boolean() }),
)
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

  it('never adds access when a role, or the target, is disabled', () => {
    fc.assert(
      fc.property(subjectArb, grantsArb, targetArb, (subject, grants, target) => {
        const off = { ...subject, roles: subject.roles.map((role) => ({ ...role, enabled: false })) }
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
        expect(named.some((grant) => grant.resource.kind === target.kind)).toBe(true)
      }),
    )
  })
})

describe('the decision, case by case', () => {
  const subject: Subject = { tenantId: 'acme', keyId: 'k', userId: 'u', roles: [{ id: 'r', enabled: true }] }
  const adapter: Target = { kind: 'adapter', tenantId: 'acme', id: 'x', digest: 'd', baseDigest: 'b', enabled: true }
  const bare: Target = { kind: 'base', baseDigest: 'b', enabled: true }
  const grant = (more: Partial<Grant>): Grant => ({
    tenantId: 'acme',
    id: 'g',
    effect: 'allow',
    principal: { kind: 'tenant' },
    resource: { kind: 'adapter', id: 'x' },
    startsAt: null,
    endsAt: null,
    ...more,
  })
  const base = { kind: 'base', digest: 'b' } as const

  it('reaches the principal by key, user, role and tenant', () => {
    for (const principal of [
      { kind: 'key', id: 'k' },
      { kind: 'user', id: 'u' },
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
