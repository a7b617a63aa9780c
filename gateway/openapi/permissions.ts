// Declared: grants, the explanation of a decision, the audit trail.
import { z } from '@hono/zod-openapi'
import { After } from '../admin/audit.ts'
import { Body as ExplainBody } from '../admin/explain.ts'
import { Body as GrantBody } from '../admin/grants.ts'
import { Digest, Id, KeyId, Page } from '../admin/read-input.ts'
import { audit } from '../database/records.ts'
import { grants } from '../database/schema.ts'
import { ACTIONS } from '../policy/actions.ts'
import { forAdmins, listOf, putOf } from './declare.ts'
import { rowOf } from './row-of.ts'

const actions = z.array(z.enum(ACTIONS)).min(1)
const Grant = rowOf(grants, { actions, keyId: KeyId, baseDigest: Digest }).openapi('Grant')
const Audit = rowOf(audit).openapi('AuditRow')

const Adapter = z
  .strictObject({
    kind: z.literal('adapter'),
    tenantId: Id,
    id: Id,
    digest: Digest,
    baseDigest: Digest,
    enabled: z.boolean(),
    tags: z.array(Id),
    madeOf: z.array(z.lazy((): z.ZodType => Adapter)).optional(),
  })
  .openapi('AdapterTarget')
const Base = z.strictObject({
  kind: z.literal('base'),
  baseDigest: Digest,
  enabled: z.boolean(),
  madeOf: z.array(Adapter).optional(),
})
const Target = z.union([Adapter, Base])
const parent = Id.optional()
const Decision = z.union([
  z.strictObject({ allowed: z.literal(true), grantId: Id }),
  z.strictObject({ allowed: z.literal(false), reason: z.literal('denied'), grantId: Id, parent }),
  z.strictObject({
    allowed: z.literal(false),
    reason: z.enum(['not-granted', 'disabled', 'other-tenant', 'out-of-scope']),
    parent,
  }),
])
const Explained = z
  .strictObject({
    live: z.boolean(),
    action: z.enum(ACTIONS),
    model: z.enum(['known', 'unknown-or-disabled']),
    targets: z.array(
      z.strictObject({ part: z.string().optional(), arm: Id.nullable(), target: Target, decision: Decision }),
    ),
  })
  .openapi('Explained')

const tag = 'Permissions'

export const permissions = [
  forAdmins('get', '/tenants/:tenant/grants', { tag, summary: 'Grants of a tenant.', answers: { 200: listOf(Grant) } }),
  forAdmins('put', '/tenants/:tenant/grants/:grant', {
    tag,
    summary: 'Allow or deny an act on an adapter, a tag or a base, to a key, user, group, role or everybody.',
    body: GrantBody,
    codes: ['unknown_reference'],
    answers: putOf(Grant),
  }),
  forAdmins('delete', '/tenants/:tenant/grants/:grant', {
    tag,
    summary: 'Delete a grant; the answer is what was deleted.',
    finds: true,
    answers: { 200: Grant },
  }),
  forAdmins('post', '/explain', {
    tag,
    summary: 'Why a key gets a model or not, and which grant says so.',
    body: ExplainBody,
    codes: ['invalid_mix'],
    finds: true,
    answers: { 200: Explained },
  }),
  forAdmins('get', '/audit', {
    tag: 'Records',
    summary: 'The audit trail, newest first; with after, oldest first.',
    query: Page.extend({ after: After }),
    answers: { 200: listOf(Audit) },
  }),
]
