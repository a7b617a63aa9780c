// Merges and stacks, made by the compiler service from registered adapters. What comes back is registered as a base,
// with its parents on record, and nobody may use it until somebody is granted it.
import { and, eq, inArray } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { Manifest } from '../../compiler/contract.ts'
import { AdapterFile, type Job, Recipe } from '../../jobs/contract.ts'
import { readJob, readManifest, submitJob } from '../call-compiler.ts'
import type { GatewayContext, GatewayEnv } from '../context.ts'
import { adapters, bases, type CompileParent, compiles, grants } from '../database/schema.ts'
import { badRequest, notFound } from '../errors.ts'
import { Digest, Id, readBody, readParam } from './read-input.ts'
import { recordChange } from './record-change.ts'

/** Two lines of the manifest per module and parent: it stays far below what the gateway reads. */
const MAX_PARENTS = 16

export const Body = z.strictObject({
  name: Id,
  target: z.enum(['merged', 'stacked']),
  base: z.strictObject({ files: Recipe.shape.base }),
  adapters: z
    .array(z.strictObject({ adapter: Id, weight: z.number().default(1), files: z.record(AdapterFile, Digest) }))
    .min(1)
    .max(MAX_PARENTS),
})

type Compile = typeof compiles.$inferSelect

export function addCompiles(admin: Hono<GatewayEnv>): void {
  admin.post('/tenants/:tenant/compiles', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const { name, target, base, adapters: asked } = await readBody(c, Body)
    const { parents, baseDigest } = await readParents(c, tenantId, asked)
    const recipe = parents.map((parent, i) => ({ ...parent, files: asked[i]!.files }))
    const job = await submitJob(c, {
      target,
      base: base.files,
      adapters: recipe.map(({ name, weight, files }) => ({ name, weight, files })),
    })
    const before = await find(c, tenantId, job.id)
    if (before) return c.json(await describe(c, before, job), 200)
    const now = c.get('world').now()
    const row: Compile = {
      tenantId,
      job: job.id,
      name,
      target,
      baseDigest,
      parents,
      status: 'open',
      artifact: null,
      createdAt: now,
      settledAt: null,
    }
    const write = c.get('db').insert(compiles).values(row)
    await recordChange(c, {
      action: 'compile.post',
      resource: `${tenantId}/${job.id}`,
      before: undefined,
      after: row,
      writes: [write],
    })
    return c.json(await describe(c, row, job), 202)
  })

  admin.get('/tenants/:tenant/compiles/:job', async (c) => {
    const tenantId = readParam(c, 'tenant')
    const row = await find(c, tenantId, readParam(c, 'job', Digest))
    if (!row) throw notFound()
    if (row.status !== 'open') return c.json(await describe(c, row, undefined))
    const job = await readJob(c, row.job)
    if (job.state !== 'done' || job.artifact === null) return c.json(await describe(c, row, job))
    const isOurs = isWhatWasAsked(await readManifest(c, job.artifact), row)
    return c.json(await describe(c, await settle(c, row, isOurs ? job.artifact : null), job))
  })
}

/** The adapters of the tenant, in the order in which they were asked for, all of one base that is in use. */
async function readParents(
  c: GatewayContext,
  tenantId: string,
  asked: readonly { adapter: string; weight: number }[],
): Promise<{ parents: CompileParent[]; baseDigest: string }> {
  const ids = asked.map(({ adapter }) => adapter)
  const rows = await c
    .get('db')
    .select({ id: adapters.id, name: adapters.name, digest: adapters.digest, baseDigest: adapters.baseDigest })
    .from(adapters)
    .innerJoin(bases, eq(bases.digest, adapters.baseDigest))
    .where(
      and(
        eq(adapters.tenantId, tenantId),
        inArray(adapters.id, ids),
        eq(adapters.disabled, false),
        eq(bases.disabled, false),
      ),
    )
  const parents = asked.map(({ adapter, weight }) => {
    const row = rows.find(({ id }) => id === adapter)
    if (!row) throw badRequest(`The tenant has no adapter '${adapter}' in use.`, 'unknown_reference', 'adapters')
    return { adapter, name: row.name, digest: row.digest, weight }
  })
  const [first, ...others] = new Set(rows.map(({ baseDigest }) => baseDigest))
  if (first === undefined || others.length > 0) {
    throw badRequest('The adapters are of different bases.', 'invalid_value', 'adapters')
  }
  if (new Set(parents.map(({ name }) => name)).size < parents.length) {
    throw badRequest('Two of the adapters have one name.', 'invalid_value', 'adapters')
  }
  return { parents, baseDigest: first }
}

/** The caller named the files; only the digests in the manifest show that they were those of the parents. */
function isWhatWasAsked(
  { target, base, adapters: merged }: Manifest,
  { baseDigest, parents, ...row }: Compile,
): boolean {
  // The file of a stack has the weight in it, and so another digest than the parent's.
  const spell = (list: readonly { digest: string; unweighted?: string | undefined; weight: number }[]) =>
    JSON.stringify(list.map(({ digest, unweighted = digest, weight }) => [unweighted, weight]).sort())
  return target === row.target && base.digest === baseDigest && spell(merged) === spell(parents)
}

/** Once: the base and the end of the compile are written together, or neither is. */
async function settle(c: GatewayContext, before: Compile, artifact: string | null): Promise<Compile> {
  const db = c.get('db')
  const now = c.get('world').now()
  const after: Compile = { ...before, status: artifact === null ? 'mismatch' : 'done', artifact, settledAt: now }
  const { status, settledAt, tenantId, job } = after
  const end = db
    .update(compiles)
    .set({ status, artifact, settledAt })
    .where(and(eq(compiles.tenantId, tenantId), eq(compiles.job, job), eq(compiles.status, 'open')))
  const base = artifact === null ? [] : [{ digest: artifact, disabled: false, createdAt: now }]
  const register = base.map((values) => db.insert(bases).values(values).onConflictDoNothing())
  const resource = `${tenantId}/${job}`
  await recordChange(c, { action: 'compile.settle', resource, before, after, writes: [...register, end] })
  return after
}

async function find(c: GatewayContext, tenantId: string, job: string): Promise<Compile | undefined> {
  const [row] = await c
    .get('db')
    .select()
    .from(compiles)
    .where(and(eq(compiles.tenantId, tenantId), eq(compiles.job, job)))
  return row
}

/** With every grant of the result in this tenant: none is ever made here. */
async function describe(c: GatewayContext, row: Compile, job: Job | undefined) {
  const { tenantId, artifact } = row
  const given =
    artifact === null
      ? []
      : await c
          .get('db')
          .select({ id: grants.id })
          .from(grants)
          .where(and(eq(grants.tenantId, tenantId), eq(grants.baseDigest, artifact)))
  return {
    ...row,
    state: job?.state ?? 'done',
    progress: job?.progress ?? null,
    failure: job?.failure ?? null,
    grants: given.map(({ id }) => id),
  }
}
