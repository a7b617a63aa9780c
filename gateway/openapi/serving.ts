// Declared: bases, backends, adapters, compiles and models.
import { z } from '@hono/zod-openapi'
import { JobSummary } from '../../jobs/contract.ts'
import { Body as AdapterBody } from '../admin/adapters.ts'
import { Body as BackendAdapterBody, Probe } from '../admin/backend-adapters.ts'
import { Body as BackendBody } from '../admin/backends.ts'
import { Body as BaseBody } from '../admin/bases.ts'
import { Body as CompileBody } from '../admin/compiles.ts'
import { Body as ModelBody } from '../admin/models.ts'
import { Digest, Id, ModelName } from '../admin/read-input.ts'
import * as tables from '../database/schema.ts'
import { forAdmins, listOf, putOf } from './declare.ts'
import { uncompiled } from './refusals.ts'
import { rowOf } from './row-of.ts'

const Base = rowOf(tables.bases, { digest: Digest }).openapi('Base')
const Backend = rowOf(tables.backends, { baseDigest: Digest }).openapi('Backend')
const BackendAdapter = rowOf(tables.backendAdapters, { digest: Digest }).openapi('BackendAdapter')
const Adapter = rowOf(tables.adapters, { digest: Digest, baseDigest: Digest })
  .extend({ tags: z.array(Id) })
  .openapi('Adapter')
const Parent = z.strictObject({ adapter: Id, name: Id, digest: Digest, weight: z.number() })
const { state, progress, failure } = JobSummary.shape
const Compile = rowOf(tables.compiles, { job: Digest, baseDigest: Digest, artifact: Digest, parents: z.array(Parent) })
  .extend({ state, progress, failure, grants: z.array(Id) })
  .openapi('Compile')
const Model = rowOf(tables.models, { name: ModelName, baseDigest: Digest }).openapi('Model')

const tag = 'Serving'
const ofDigest = { params: { digest: Digest } }
const refers = ['unknown_reference']

export const serving = [
  forAdmins('get', '/bases', { tag, summary: 'Every base.', answers: { 200: listOf(Base) } }),
  forAdmins('put', '/bases/:digest', {
    tag,
    summary: 'Register a base by its digest, or disable it.',
    ...ofDigest,
    body: BaseBody,
    answers: putOf(Base),
  }),
  forAdmins('get', '/backends', { tag, summary: 'Every backend.', answers: { 200: listOf(Backend) } }),
  forAdmins('put', '/backends/:backend', {
    tag,
    summary: 'Register a backend: where it is, what it speaks, and which base it has.',
    body: BackendBody,
    codes: [...refers, 'already_exists'],
    answers: putOf(Backend),
  }),
  forAdmins('get', '/backends/:backend/adapters', {
    tag,
    summary: 'What adapters are called on a foreign backend, and whether they were seen to run.',
    answers: { 200: listOf(BackendAdapter) },
  }),
  forAdmins('put', '/backends/:backend/adapters/:digest', {
    tag,
    summary: 'What an adapter is called on a foreign backend; a change makes it untested.',
    ...ofDigest,
    body: BackendAdapterBody,
    codes: [...refers, 'already_exists', 'not_needed'],
    finds: true,
    answers: putOf(BackendAdapter),
  }),
  forAdmins('delete', '/backends/:backend/adapters/:digest', {
    tag,
    summary: 'Forget an adapter on a foreign backend; the answer is what was deleted.',
    ...ofDigest,
    finds: true,
    answers: { 200: BackendAdapter },
  }),
  forAdmins('post', '/backends/:backend/adapters/:digest/probe', {
    tag,
    summary: 'See whether a foreign backend runs the adapter; active or refused, with the reason.',
    ...ofDigest,
    body: Probe,
    codes: ['not_needed'],
    finds: true,
    answers: { 200: BackendAdapter },
  }),
  forAdmins('get', '/tenants/:tenant/adapters', {
    tag,
    summary: 'Adapters of a tenant, a row a version.',
    answers: { 200: listOf(Adapter) },
  }),
  forAdmins('put', '/tenants/:tenant/adapters/:adapter', {
    tag,
    summary: 'Register a version of an adapter; all but tags and disabled is there to stay.',
    body: AdapterBody,
    codes: [...refers, 'already_exists', 'immutable'],
    answers: putOf(Adapter),
  }),
  forAdmins('post', '/tenants/:tenant/compiles', {
    tag,
    summary: 'Have adapters merged or stacked by the compiler service.',
    body: CompileBody,
    refusals: uncompiled,
    answers: { 200: Compile, 202: Compile },
  }),
  forAdmins('get', '/tenants/:tenant/compiles/:job', {
    tag,
    summary: 'How a compile stands; one that is done is settled by this.',
    params: { job: Digest },
    finds: true,
    refusals: uncompiled,
    answers: { 200: Compile },
  }),
  forAdmins('get', '/tenants/:tenant/models', { tag, summary: 'Public names.', answers: { 200: listOf(Model) } }),
  forAdmins('put', '/tenants/:tenant/models/:model', {
    tag,
    summary: 'Point a public name at an adapter, a base or an experiment.',
    params: { model: ModelName },
    body: ModelBody,
    codes: refers,
    answers: putOf(Model),
  }),
]
