// What an adapter is called on a backend that is not ours, and whether it was seen to run there.
import { and, asc, eq } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayContext, GatewayEnv } from '../context.ts'
import { adapters, backendAdapters, backends } from '../database/schema.ts'
import { badRequest, notFound } from '../errors.ts'
import { DRIVERS } from '../upstream/drivers.ts'
import { PROMPTS, probeAdapter } from '../upstream/probe-adapter.ts'
import { Digest, MAX_ROWS, readBody, readParam } from './read-input.ts'
import { recordChange } from './record-change.ts'

/** A path or a name in the backend's own world; the gateway opens nothing by it. */
const Source = z.string().regex(/^[\x21-\x7e]{1,1024}$/, 'must be 1 to 1024 printable characters without spaces')
export const Body = z.strictObject({ upstream: z.string().min(1), source: Source.nullable().default(null) })
const MAX_PROMPT_CHARS = 4_000
export const Probe = z.strictObject({
  endpoint: z.enum(['completions', 'chat']).optional(),
  prompts: z.array(z.string().min(1).max(MAX_PROMPT_CHARS)).min(1).max(8).default(PROMPTS),
})

type Backend = typeof backends.$inferSelect

async function readForeign(c: GatewayContext): Promise<Backend> {
  const id = readParam(c, 'backend')
  const [backend] = await c.get('db').select().from(backends).where(eq(backends.id, id))
  if (backend === undefined) throw notFound()
  if (backend.driver === 'sidepath') {
    throw badRequest(
      'A gpu-backend knows adapters by digest, and loads them itself: there is no name to give.',
      'not_needed',
    )
  }
  return backend
}

const ofThis = (backendId: string, digest: string) =>
  and(eq(backendAdapters.backendId, backendId), eq(backendAdapters.digest, digest))

const find = async (c: GatewayContext, backendId: string, digest: string) =>
  (await c.get('db').select().from(backendAdapters).where(ofThis(backendId, digest)))[0]

export function addBackendAdapters(admin: Hono<GatewayEnv>): void {
  admin.get('/backends/:backend/adapters', async (c) => {
    const ofBackend = eq(backendAdapters.backendId, readParam(c, 'backend'))
    const rows = c.get('db').select().from(backendAdapters).where(ofBackend)
    return c.json({ data: await rows.orderBy(asc(backendAdapters.digest)).limit(MAX_ROWS) })
  })

  admin.put('/backends/:backend/adapters/:digest', async (c) => {
    const digest = readParam(c, 'digest', Digest)
    const body = await readBody(c, Body)
    const backend = await readForeign(c)
    const { adapterName, load } = DRIVERS[backend.driver]
    if (!adapterName.test(body.upstream) || body.upstream === backend.baseModel) {
      const message = `Invalid parameter 'upstream': no adapter can be called that on a backend of the kind '${backend.driver}'.`
      throw badRequest(message, 'invalid_value', 'upstream')
    }
    if (body.source !== null && (load === null || !backend.mayLoad)) {
      const message = "Invalid parameter 'source': the gateway may not load adapters on this backend; see its mayLoad."
      throw badRequest(message, 'invalid_value', 'source')
    }
    const db = c.get('db')
    const [known] = await db
      .select({ id: adapters.id })
      .from(adapters)
      .where(and(eq(adapters.digest, digest), eq(adapters.baseDigest, backend.baseDigest)))
      .limit(1)
    if (known === undefined) {
      throw badRequest('No tenant has an adapter with this digest for the base of this backend.', 'unknown_reference')
    }
    const before = await find(c, backend.id, digest)
    if (before?.upstream === body.upstream && before.source === body.source) return c.json(before)
    const set = {
      ...body,
      status: 'untested' as const,
      reason: null,
      probedAt: null,
      revision: (before?.revision ?? 0) + 1,
    }
    const createdAt = before?.createdAt ?? c.get('world').now()
    const after = { backendId: backend.id, digest, ...set, createdAt }
    const write = db
      .insert(backendAdapters)
      .values(after)
      .onConflictDoUpdate({ target: [backendAdapters.backendId, backendAdapters.digest], set })
    const resource = `${backend.id}/${digest}`
    await recordChange(c, { action: 'backend-adapter.put', resource, before, after, writes: [write] })
    return c.json(after, before ? 200 : 201)
  })

  admin.delete('/backends/:backend/adapters/:digest', async (c) => {
    const backendId = readParam(c, 'backend')
    const digest = readParam(c, 'digest', Digest)
    const before = await find(c, backendId, digest)
    if (before === undefined) throw notFound()
    const write = c.get('db').delete(backendAdapters).where(ofThis(backendId, digest))
    const resource = `${backendId}/${digest}`
    await recordChange(c, { action: 'backend-adapter.delete', resource, before, after: undefined, writes: [write] })
    return c.json(before)
  })

  admin.post('/backends/:backend/adapters/:digest/probe', async (c) => {
    const digest = readParam(c, 'digest', Digest)
    const { endpoint, prompts } = await readBody(c, Probe)
    const backend = await readForeign(c)
    const before = await find(c, backend.id, digest)
    if (before === undefined) throw notFound()
    const verdict = await probeAdapter(c.get('world'), backend, before, {
      endpoint: endpoint ?? 'completions',
      prompts,
      secrets: c.env,
      signal: c.req.raw.signal,
    })
    const set = { status: verdict.active ? ('active' as const) : ('refused' as const), reason: verdict.reason }
    const after = { ...before, ...set, probedAt: c.get('world').now() }
    const write = c
      .get('db')
      .update(backendAdapters)
      .set({ ...set, probedAt: after.probedAt })
      .where(and(ofThis(backend.id, digest), eq(backendAdapters.revision, before.revision)))
    const resource = `${backend.id}/${digest}`
    await recordChange(c, { action: 'backend-adapter.probe', resource, before, after, writes: [write] })
    // What holds now: another change may have come while it was probed.
    return c.json((await find(c, backend.id, digest)) ?? after)
  })
}
