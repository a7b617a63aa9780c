// Backends: the only source of an upstream address.
import { eq, sql } from 'drizzle-orm'
import type { Hono } from 'hono'
import * as z from 'zod'
import type { GatewayEnv } from '../context.ts'
import { backendAdapters, backends } from '../database/schema.ts'
import { badRequest } from '../errors.ts'
import { SECRET_NAME } from '../upstream/credential.ts'
import { DRIVER_NAMES } from '../upstream/driver-names.ts'
import { DRIVERS } from '../upstream/drivers.ts'
import { Digest, Id, MAX_ROWS, readBody, readParam } from './read-input.ts'
import { recordChange } from './record-change.ts'

/** An origin and no more: paths come from the driver, credentials from the capability or a binding. */
const Origin = z.string().refine((text) => {
  const url = URL.parse(text)
  return url !== null && (url.protocol === 'http:' || url.protocol === 'https:') && url.origin === text
}, 'must be an origin such as http://127.0.0.1:8080, without path, query, credentials or trailing slash')

export const Body = z.strictObject({
  url: Origin,
  base: Digest,
  enabled: z.boolean().default(true),
  driver: z.enum(DRIVER_NAMES).default('sidepath'),
  prefix: z
    .string()
    .regex(
      /^(\/[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}){0,8}$/,
      'must be empty or a path such as /openai, without a trailing slash',
    )
    .default(''),
  secret: z
    .string()
    .regex(SECRET_NAME, 'must be the name of a binding, UPSTREAM_ and then A-Z, 0-9 or _, never the credential itself')
    .nullable()
    .default(null),
  baseModel: z
    .string()
    .regex(/^([A-Za-z0-9@][A-Za-z0-9._/@:-]{0,255})?$/, 'must be what the backend calls its base')
    .refine((name) => !name.includes('..') && !name.includes('//'), 'must not lead out of its path')
    .default(''),
  mayLoad: z.boolean().default(false),
  draining: z.boolean().default(false),
})

/** What makes an adapter that was found to run there another question. */
const SAME_SERVER = ['url', 'prefix', 'driver', 'baseModel', 'baseDigest', 'secret'] as const

function refuseMisfit({ driver, secret, prefix, baseModel, mayLoad }: z.output<typeof Body>): void {
  const refuse = (field: string, why: string): never => {
    throw badRequest(`Invalid parameter '${field}': a backend of the kind '${driver}' ${why}.`, 'invalid_value', field)
  }
  if (driver === 'sidepath') {
    if (secret !== null) refuse('secret', 'gets a capability with each request, and no other credential')
    if (prefix !== '') refuse('prefix', 'has its paths from the contract')
    if (baseModel !== '') refuse('baseModel', 'knows its base by digest')
  }
  if (DRIVERS[driver].needsBaseModel && baseModel === '') refuse('baseModel', 'must be told what its base is called')
  // Behind it the name of an adapter would begin.
  if (driver === 'sglang' && baseModel.includes(':')) refuse('baseModel', 'can have no colon in the name of its base')
  if (mayLoad && DRIVERS[driver].load === null) refuse('mayLoad', 'cannot be told to load an adapter')
}

export function addBackends(admin: Hono<GatewayEnv>): void {
  admin.get('/backends', async (c) => c.json({ data: await c.get('db').select().from(backends).limit(MAX_ROWS) }))

  admin.put('/backends/:backend', async (c) => {
    const id = readParam(c, 'backend', Id)
    const body = await readBody(c, Body)
    refuseMisfit(body)
    const { base: baseDigest, ...rest } = body
    const db = c.get('db')
    const [before] = await db.select().from(backends).where(eq(backends.id, id))
    const set = { ...rest, baseDigest }
    const after = { id, ...set, createdAt: before?.createdAt ?? c.get('world').now() }
    const write = db.insert(backends).values(after).onConflictDoUpdate({ target: backends.id, set })
    const isAnother = before !== undefined && SAME_SERVER.some((field) => before[field] !== after[field])
    const untested = db
      .update(backendAdapters)
      .set({ status: 'untested', reason: null, revision: sql`${backendAdapters.revision} + 1` })
      .where(eq(backendAdapters.backendId, id))
    const writes = isAnother ? [write, untested] : [write]
    await recordChange(c, { action: 'backend.put', resource: id, before, after, writes })
    return c.json(after, before ? 200 : 201)
  })
}
