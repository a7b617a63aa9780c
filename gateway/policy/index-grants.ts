// Grants as rows → grants by what they name, so that a decision looks at those of its target and at no others.
import type { grants } from '../database/schema.ts'
import type { Grant, GrantsAbout } from './resolve-grants.ts'

export function readGrant(row: typeof grants.$inferSelect): Grant {
  const { tenantId, id, effect, actions, startsAt, endsAt } = row
  return { tenantId, id, effect, actions, principal: principalOf(row), resource: resourceOf(row), startsAt, endsAt }
}

function principalOf({
  principalKind,
  keyId,
  userId,
  groupId,
  roleId,
}: typeof grants.$inferSelect): Grant['principal'] {
  if (principalKind === 'tenant') return { kind: 'tenant' }
  const id = { key: keyId, user: userId, group: groupId, role: roleId }[principalKind]
  if (id === null) throw new Error('a grant row names no principal')
  return { kind: principalKind, id }
}

function resourceOf({ adapterId, tag, baseDigest }: typeof grants.$inferSelect): Grant['resource'] {
  if (adapterId !== null) return { kind: 'adapter', id: adapterId }
  if (tag !== null) return { kind: 'tag', tag }
  if (baseDigest !== null) return { kind: 'base', digest: baseDigest }
  throw new Error('a grant row names no resource')
}

/** Finds by resource alone; principal, act and time are the decision's. */
export function indexGrants(all: readonly Grant[]): GrantsAbout {
  const adapters = new Map<string, Grant[]>()
  const tags = new Map<string, Grant[]>()
  const bases = new Map<string, Grant[]>()
  for (const grant of all) {
    const { resource } = grant
    if (resource.kind === 'adapter') add(adapters, resource.id, grant)
    else if (resource.kind === 'tag') add(tags, resource.tag, grant)
    else add(bases, resource.digest, grant)
  }
  return (target) => {
    const ofBase = bases.get(target.baseDigest) ?? []
    if (target.kind === 'base') return ofBase
    return [...(adapters.get(target.id) ?? []), ...target.tags.flatMap((tag) => tags.get(tag) ?? []), ...ofBase]
  }
}

function add(map: Map<string, Grant[]>, key: string, grant: Grant): void {
  const list = map.get(key)
  if (list === undefined) map.set(key, [grant])
  else list.push(grant)
}
