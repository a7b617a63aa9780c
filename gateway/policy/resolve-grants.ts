// The decision, as a pure function: may this principal do this with this target now, and which grant says so?
// An act on a target is allowed when some allow of that act applies to it and no deny of that act applies to it, to one of
// its tags or to its base. Nothing is allowed by default; the order of grants is irrelevant; another tenant's target does
// not exist. Where adapters were merged into the base that it runs on, each of them must be allowed as well.
import type { Action } from './actions.ts'

export interface AdapterTarget {
  readonly kind: 'adapter'
  readonly tenantId: string
  readonly id: string
  readonly digest: string
  readonly baseDigest: string
  readonly enabled: boolean
  readonly tags: readonly string[]
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
  readonly actions: readonly Action[]
  readonly principal:
    | { readonly kind: 'key' | 'user' | 'group' | 'role'; readonly id: string }
    | { readonly kind: 'tenant' }
  readonly resource:
    | { readonly kind: 'adapter'; readonly id: string }
    /** Every adapter that has it, at the moment of the decision. Bases have none. */
    | { readonly kind: 'tag'; readonly tag: string }
    | { readonly kind: 'base'; readonly digest: string }
  /** Milliseconds; the window is [startsAt, endsAt). */
  readonly startsAt: number | null
  readonly endsAt: number | null
}

interface Membership {
  readonly id: string
  readonly enabled: boolean
}

export interface Subject {
  readonly tenantId: string
  /** Null: a user with a token of an issuer. */
  readonly keyId: string | null
  readonly userId: string | null
  readonly groups: readonly Membership[]
  readonly roles: readonly Membership[]
  /** What the credential is good for at most; null: no bound beyond the grants. */
  readonly scopes: readonly Action[] | null
}

/** The grants that name a target, by whatever way; more of them do no harm. */
export type GrantsAbout = (target: Target) => readonly Grant[]

export type Decision = { readonly allowed: true; readonly grantId: string } | Refusal

type Refusal = (
  | { readonly allowed: false; readonly reason: 'denied'; readonly grantId: string }
  | { readonly allowed: false; readonly reason: 'not-granted' | 'disabled' | 'other-tenant' | 'out-of-scope' }
) & {
  /** Id of the adapter that decided, where it was not the target itself but one that is merged into its base. */
  readonly parent?: string
}

function appliesTo(grant: Grant, subject: Subject): boolean {
  if (grant.tenantId !== subject.tenantId) return false
  const { principal } = grant
  switch (principal.kind) {
    case 'tenant':
      return true
    case 'key':
      return subject.keyId !== null && principal.id === subject.keyId
    case 'user':
      return subject.userId !== null && principal.id === subject.userId
    case 'group':
    case 'role': {
      const memberships = principal.kind === 'group' ? subject.groups : subject.roles
      const found = memberships.find(({ id }) => id === principal.id)
      // Disabling a group or a role takes its allows away but keeps its denies: it never adds access.
      return found !== undefined && (found.enabled || grant.effect === 'deny')
    }
  }
}

function names(grant: Grant, target: Target): boolean {
  const { resource } = grant
  if (resource.kind === 'adapter') return target.kind === 'adapter' && resource.id === target.id
  if (resource.kind === 'tag') return target.kind === 'adapter' && target.tags.includes(resource.tag)
  if (resource.digest !== target.baseDigest) return false
  // A base may be denied with everything that runs on it; allowing it allows the bare base only.
  return target.kind === 'base' || grant.effect === 'deny'
}

const smallest = (ids: readonly string[]): string | undefined =>
  ids.reduce<string | undefined>((least, id) => (least === undefined || id < least ? id : least), undefined)

/** The meet of the target and all that it is made of: a grant of a merge is no way around a deny of what is in it. */
export function resolveGrants(
  subject: Subject,
  grantsAbout: GrantsAbout,
  target: Target,
  action: Action,
  now: number,
): Decision {
  const decision = resolveAlone(subject, grantsAbout, target, action, now)
  if (!decision.allowed) return decision
  for (const parent of target.madeOf ?? []) {
    const refusal = resolveAlone(subject, grantsAbout, parent, action, now)
    if (!refusal.allowed) return { ...refusal, parent: parent.id }
  }
  return decision
}

function resolveAlone(
  subject: Subject,
  grantsAbout: GrantsAbout,
  target: Target,
  action: Action,
  now: number,
): Decision {
  if (target.kind === 'adapter' && target.tenantId !== subject.tenantId) {
    return { allowed: false, reason: 'other-tenant' }
  }
  if (!target.enabled) return { allowed: false, reason: 'disabled' }
  const applicable = grantsAbout(target).filter(
    (grant) =>
      grant.actions.includes(action) &&
      appliesTo(grant, subject) &&
      names(grant, target) &&
      (grant.startsAt === null || grant.startsAt <= now) &&
      (grant.endsAt === null || now < grant.endsAt),
  )
  const ids = (effect: Grant['effect']) => applicable.filter((g) => g.effect === effect).map((g) => g.id)
  const deniedBy = smallest(ids('deny'))
  if (deniedBy !== undefined) return { allowed: false, reason: 'denied', grantId: deniedBy }
  const allowedBy = smallest(ids('allow'))
  if (allowedBy === undefined) return { allowed: false, reason: 'not-granted' }
  if (subject.scopes?.includes(action) === false) return { allowed: false, reason: 'out-of-scope' }
  return { allowed: true, grantId: allowedBy }
}
