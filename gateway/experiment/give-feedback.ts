// `POST /v1/feedback`: a number about a request of the caller's own tenant, under a metric that the tenant has defined.
import { and, eq } from 'drizzle-orm'
import * as z from 'zod'
import { type GatewayContext, userPolicy } from '../context.ts'
import { outcomes, usage } from '../database/records.ts'
import { metrics } from '../database/schema.ts'
import { badRequest, notFound } from '../errors.ts'
import { refuse } from '../infer/parse-request.ts'
import { readJsonBody } from '../read-body.ts'

/** Later than that, a request is history. */
const MAX_AGE_MS = 90 * 86_400_000

const metric = z.string().min(1).max(64)
const value = z.number()
export const Body = z.union([
  z.strictObject({ receipt: z.string().regex(/^[0-9a-f]{32}$/), metric, value }),
  z.strictObject({ request_id: z.uuid(), metric, value }),
])

/** 201 where it is new, 200 where the same was said before; another value for the same request is refused. */
export async function giveFeedback(c: GatewayContext): Promise<Response> {
  const { tenantId } = userPolicy(c).subject
  const parsed = Body.safeParse(await readJsonBody(c.req.raw))
  if (!parsed.success) refuse(parsed.error)
  const body = parsed.data
  const db = c.get('db')
  const named = 'receipt' in body ? eq(usage.receipt, body.receipt) : eq(usage.requestId, body.request_id)
  const [[request], [defined]] = await db.batch([
    db
      .select({ requestId: usage.requestId, createdAt: usage.createdAt })
      .from(usage)
      .where(and(named, eq(usage.tenantId, tenantId))),
    db
      .select()
      .from(metrics)
      .where(and(eq(metrics.tenantId, tenantId), eq(metrics.id, body.metric))),
  ])
  const now = c.get('world').now()
  // Unknown, another tenant's and too old are one answer.
  if (request === undefined || now - request.createdAt > MAX_AGE_MS) throw notFound()
  if (defined === undefined) {
    throw badRequest(`The metric '${body.metric}' is not defined; an admin defines it.`, 'unknown_metric', 'metric')
  }
  if (body.value < defined.min || body.value > defined.max) {
    throw badRequest(
      `Invalid parameter 'value': ${body.value} is not within ${defined.min} and ${defined.max}.`,
      'invalid_value',
      'value',
    )
  }
  const row = { tenantId, requestId: request.requestId, metric: body.metric, source: 'feedback' as const }
  const [written, [stored]] = await db.batch([
    db
      .insert(outcomes)
      .values({ ...row, value: body.value, createdAt: now })
      .onConflictDoNothing()
      .returning({ value: outcomes.value }),
    db
      .select({ value: outcomes.value })
      .from(outcomes)
      .where(
        and(eq(outcomes.requestId, row.requestId), eq(outcomes.source, row.source), eq(outcomes.metric, row.metric)),
      ),
  ])
  if (stored?.value !== body.value) {
    throw badRequest(`The request has a '${row.metric}' already: ${stored?.value}.`, 'already_recorded', 'value')
  }
  const said = { request_id: row.requestId, metric: row.metric, value: body.value }
  return c.json(said, written.length > 0 ? 201 : 200)
}
