// Declared: tenants, users, roles, groups, issuers and keys.
import { z } from '@hono/zod-openapi'
import { Body as IssuerBody } from '../admin/issuers.ts'
import { AdminKeyBody, Patch as KeyPatch, Rotation, UserKeyBody } from '../admin/keys.ts'
import { Id, KeyId } from '../admin/read-input.ts'
import { Body as RoleBody } from '../admin/roles.ts'
import { Body as TenantBody } from '../admin/tenants.ts'
import { Body as UserBody } from '../admin/users.ts'
import * as tables from '../database/schema.ts'
import { ALGORITHMS } from '../identity/tokens.ts'
import { ACTIONS } from '../policy/actions.ts'
import { forAdmins, listOf, putOf } from './declare.ts'
import { rowOf } from './row-of.ts'

const Tenant = rowOf(tables.tenants).openapi('Tenant')
const User = rowOf(tables.users)
  .extend({ roles: z.array(Id), groups: z.array(Id) })
  .openapi('User')
const Role = rowOf(tables.roles).openapi('Role')
const Group = rowOf(tables.groups).openapi('Group')
const Issuer = rowOf(tables.issuers, { algorithms: z.array(z.enum(ALGORITHMS)) }).openapi('Issuer')

const known = rowOf(tables.keys, { id: KeyId, scopes: z.array(z.enum(ACTIONS)) }).omit({
  mac: true,
  previousMac: true,
  previousPepperVersion: true,
})
const Key = known.openapi('Key')
const UsedKey = known.extend({ lastUsedAt: z.int().nullable() }).openapi('UsedKey')
const secret = z.string().regex(/^sp_/)
const NewKey = known.omit({ previousUntil: true }).extend({ key: secret }).openapi('NewKey')
const RotatedKey = known.extend({ key: secret }).openapi('RotatedKey')

const tag = 'Identity'
const ofKey = { params: { key: KeyId } }
const refers = ['unknown_reference']

export const identity = [
  forAdmins('get', '/tenants', { tag, summary: 'Every tenant.', answers: { 200: listOf(Tenant) } }),
  forAdmins('put', '/tenants/:tenant', {
    tag,
    summary: 'Create or change a tenant; maxTokens bounds what one request may generate.',
    body: TenantBody,
    answers: putOf(Tenant),
  }),
  forAdmins('get', '/tenants/:tenant/users', { tag, summary: 'Users of a tenant.', answers: { 200: listOf(User) } }),
  forAdmins('put', '/tenants/:tenant/users/:user', {
    tag,
    summary: 'Create or change a user; roles and groups are whole sets, and stay where they are left out.',
    body: UserBody,
    codes: refers,
    answers: putOf(User),
  }),
  forAdmins('get', '/tenants/:tenant/roles', { tag, summary: 'Roles of a tenant.', answers: { 200: listOf(Role) } }),
  forAdmins('put', '/tenants/:tenant/roles/:role', {
    tag,
    summary: 'Create or disable a role; a disabled one keeps its denies.',
    body: RoleBody,
    codes: refers,
    answers: putOf(Role),
  }),
  forAdmins('get', '/tenants/:tenant/groups', { tag, summary: 'Groups of a tenant.', answers: { 200: listOf(Group) } }),
  forAdmins('put', '/tenants/:tenant/groups/:group', {
    tag,
    summary: 'Create or disable a group; a disabled one keeps its denies.',
    body: RoleBody,
    codes: refers,
    answers: putOf(Group),
  }),
  forAdmins('get', '/tenants/:tenant/issuers', {
    tag,
    summary: 'OpenID Connect issuers whose tokens open a tenant.',
    answers: { 200: listOf(Issuer) },
  }),
  forAdmins('put', '/tenants/:tenant/issuers/:issuer', {
    tag,
    summary: 'Register an issuer; whose tokens it vouches for cannot be changed.',
    body: IssuerBody,
    codes: [...refers, 'already_exists', 'immutable'],
    answers: putOf(Issuer),
  }),
  forAdmins('get', '/keys', { tag, summary: 'Admin keys, never the secrets.', answers: { 200: listOf(UsedKey) } }),
  forAdmins('post', '/keys', {
    tag,
    summary: 'Mint an admin key; the key is in this answer and nowhere else.',
    body: AdminKeyBody,
    answers: { 201: NewKey },
  }),
  forAdmins('get', '/tenants/:tenant/keys', {
    tag,
    summary: 'Keys of a tenant, never the secrets.',
    answers: { 200: listOf(UsedKey) },
  }),
  forAdmins('post', '/tenants/:tenant/keys', {
    tag,
    summary: 'Mint a key of a tenant; the key is in this answer and nowhere else.',
    body: UserKeyBody,
    codes: refers,
    answers: { 201: NewKey },
  }),
  forAdmins('patch', '/keys/:key', {
    tag,
    summary: 'Disable a key or enable it again.',
    ...ofKey,
    body: KeyPatch,
    codes: ['own_key'],
    finds: true,
    answers: { 200: Key },
  }),
  forAdmins('post', '/keys/:key/rotate', {
    tag,
    summary: 'A new secret under the same id; the old one is good for overlapMs.',
    ...ofKey,
    body: Rotation,
    finds: true,
    answers: { 200: RotatedKey },
  }),
]
