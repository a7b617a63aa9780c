// The decision, as a pure function: may this principal use this target now, and which grant says so?
// A target is allowed when some allow applies to exactly it and no deny applies to it or to its base.
// Nothing is allowed by default; the order of grants is irrelevant; another tenant's target does not exist.

// Where adapters were merged into the base that it runs on, it says what they say: each of them must be allowed as well.

export interface AdapterTarget {
  readonly kind: 'adapter'
  readonly tenantId: string
  readonly id: string
  readonly digest: string
  readonly baseDigest: string
  readonly enabled: boolean
  /** Every adapter in the weights of the base, those of the bases that it was merged from included. None where absent. */
  readonly madeOf?: readonly AdapterTarget[]
}

export type Target =
  | AdapterTarget
  | {
      readonly kind: 'base'
      readonly baseDigest: string
      readonly enabled: boolean
      readonly madeOf?: readonly AdapterTarget[]
    }

export interface Grant {
  readonly tenantId: string
  readonly id: string
  readonly effect: 'allow' | 'deny'
  readonly principal: { readonly kind: 'key' | 'user' | 'role'; readonly id: string } | { readonly kind: 'tenant' }
  readonly resource:
    | { readonly kind: 'adapter'; readonly id: string }
    | { readonly kind: 'base'; readonly digest: string }
  /** Milliseconds; the window is [startsAt, endsAt). */
  readonly startsAt: number | null
  readonly endsAt: number | null
}

export interface Subject {
  readonly tenantId: string
  readonly keyId: string
  readonly userId: string | null
  readonly roles: readonly { readonly id: string; readonly enabled: boolean }[]
}

export type Decision = { readonly allowed: true; readonly grantId: string } | Refusal

type Refusal = (
  | { readonly allowed: false; readonly reason: 'denied'; readonly grantId: string }
  | { readonly allowed: false; readonly reason: 'not-granted' | 'disabled' | 'other-tenant' }
) & {
  /** Id of the adapter that decided, where it was not the target itself but one that is merged into its base. */
  readonly parent?: string
}

function appliesTo(grant: Grant, subject: Subject): boolean {
  if (grant.tenantId !== subject.tenantId) return false
  switch (grant.principal.kind) {
    case 'tenant':
      return true
    case 'key':
      return grant.principal.id === subject.keyId
    case 'user':
      return subject.userId !== null && grant.principal.id === subject.userId
    case 'role': {
      const { id } = grant.principal
      const role = subject.roles.find((candidate) => candidate.id === id)
      // Disabling a role takes its allows away but keeps its denies: it never adds access.
      return role !== undefined && (role.enabled || grant.effect === 'deny')
    }
  }
}

function names(grant: Grant, target: Target): boolean {
  const { resource } = grant
  if (resource.kind === 'adapter') return target.kind === 'adapter' && resource.id === target.id
  if (resource.digest !== target.baseDigest) return false
  // A base may be denied with everything that runs on it; allowing it allows the bare base only.
  return target.kind === 'base' || grant.effect === 'deny'
}

const smallest = (ids: readonly string[]): string | undefined =>
  ids.reduce<string | undefined>((least, id) => (least === undefined || id < least ? id : least), undefined)

/** The meet of the target and all that it is made of: a grant of a merge is no way around a deny of what is in it. */
export function resolveGrants(subject: Subject, grants: readonly Grant[], target: Target, now: number): Decision {
  const decision = resolveAlone(subject, grants, target, now)
  if (!decision.allowed) return decision
  for (const parent of target.madeOf ?? []) {
    const refusal = resolveAlone(subject, grants, parent, now)
    if (!refusal.allowed) return { ...refusal, parent: parent.id }
  }
  return decision
}

function resolveAlone(subject: Subject, grants: readonly Grant[], target: Target, now: number): Decision {
  if (target.kind === 'adapter' && target.tenantId !== subject.tenantId) {
    return { allowed: false, reason: 'other-tenant' }
  }
  if (!target.enabled) return { allowed: false, reason: 'disabled' }
  const applicable = grants.filter(
    (grant) =>
      appliesTo(grant, subject) &&
      names(grant, target) &&
      (grant.startsAt === null || grant.startsAt <= now) &&
      (grant.endsAt === null || now < grant.endsAt),
  )
  const ids = (effect: Grant['effect']) => applicable.filter((g) => g.effect === effect).map((g) => g.id)
  const deniedBy = smallest(ids('deny'))
  if (deniedBy !== undefined) return { allowed: false, reason: 'denied', grantId: deniedBy }
  const allowedBy = smallest(ids('allow'))
  return allowedBy === undefined ? { allowed: false, reason: 'not-granted' } : { allowed: true, grantId: allowedBy }
}
