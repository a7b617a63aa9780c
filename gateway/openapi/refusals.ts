// Every answer that is a refusal, in OpenAI's shape, with the codes that it may have.
import { z } from '@hono/zod-openapi'

interface Refusal {
  readonly description: string
  readonly content: { readonly 'application/json': { readonly schema: z.ZodType } }
  readonly headers?: z.ZodObject
}
export type Refusals = Readonly<Record<number, Refusal>>

const TYPES = {
  400: ['invalid_request_error'],
  401: ['authentication_error'],
  403: ['permission_error'],
  404: ['invalid_request_error'],
  413: ['invalid_request_error'],
  415: ['invalid_request_error'],
  422: ['invalid_request_error'],
  425: ['invalid_request_error'],
  429: ['rate_limit_error', 'insufficient_quota'],
  502: ['api_error'],
  503: ['api_error'],
} as const
type Status = keyof typeof TYPES

const bodyOf = (status: Status, code: z.ZodType) =>
  z.strictObject({
    error: z.strictObject({
      message: z.string(),
      type: z.enum(TYPES[status]),
      param: z.string().nullable(),
      code,
    }),
  })

const made = new Map<string, Refusal>()

/** One component for each status and set of codes. `open`: a backend of ours may say another, or none. */
function refusal(
  status: Status,
  codes: readonly [string, ...string[]],
  { open = false, headers }: { readonly open?: boolean; readonly headers?: z.ZodObject } = {},
): Refusal {
  const name = `Error${status}_${open ? 'any' : [...codes].sort().join('_or_')}`
  const known = made.get(name)
  if (known !== undefined) return known
  const code = open
    ? z
        .string()
        .nullable()
        .openapi({ examples: [...codes] })
    : z.enum(codes)
  const schema = bodyOf(status, code).openapi(name)
  const description = open ? `${codes.join(', ')}, or what the backend says.` : `${codes.join(', ')}.`
  const found = { description, content: { 'application/json': { schema } }, ...(headers ? { headers } : {}) }
  made.set(name, found)
  return found
}

const Again = z.object({ 'retry-after': z.string().regex(/^\d+$/).optional() })
const AgainAndWhether = Again.extend({ 'x-should-retry': z.enum(['true', 'false']).optional() })

const CONFIG = 'gateway_misconfigured'
const GUARD = [CONFIG, 'database_unavailable', 'issuer_unavailable'] as const

/** Where the gateway was not given its secrets, whatever is asked. */
export const unconfigured: Refusals = { 503: refusal(503, [CONFIG]) }

/** Of everything that needs a credential. */
export const guarded: Refusals = {
  401: refusal(401, ['invalid_api_key'], { headers: z.object({ 'www-authenticate': z.literal('Bearer') }) }),
  403: refusal(403, ['wrong_key_class']),
  503: refusal(503, [...GUARD], { headers: Again }),
}

/** Of everything that reads a body. */
export const read: Refusals = {
  413: refusal(413, ['request_too_large']),
  415: refusal(415, ['unsupported_media_type']),
}

export const INVALID = ['invalid_value'] as const
export const UNREADABLE = ['invalid_json', 'unknown_parameter', ...INVALID] as const

export const badRequest = (...codes: [string, ...string[]]): Refusals => ({ 400: refusal(400, codes) })
export const notFound: Refusals = { 404: refusal(404, ['not_found']) }
export const modelNotFound: Refusals = { 404: refusal(404, ['model_not_found']) }

/** Of what asks the compiler service. */
export const uncompiled: Refusals = {
  400: refusal(400, ['invalid_json', 'unknown_parameter', 'invalid_value', 'unknown_reference', 'blob_missing'], {
    open: true,
  }),
  429: refusal(429, ['compiler_busy'], { headers: Again }),
  502: refusal(502, ['compiler_failed']),
  503: refusal(503, [...GUARD, 'compiler_not_configured'], { headers: Again }),
}

/** Of what asks a backend. */
export const uninferred: Refusals = {
  400: refusal(400, [...UNREADABLE, 'invalid_mix', 'context_length_exceeded'], { open: true }),
  413: refusal(413, ['request_too_large'], { open: true }),
  422: refusal(422, ['idempotency_key_reused', 'idempotency_not_replayable', 'adapter_refused', 'upstream_refused'], {
    open: true,
    headers: z.object({ 'x-should-retry': z.enum(['true', 'false']).optional() }),
  }),
  425: refusal(425, ['idempotency_in_progress'], { headers: AgainAndWhether }),
  429: refusal(429, ['rate_limit_exceeded', 'insufficient_quota'], { headers: AgainAndWhether }),
  502: refusal(502, ['upstream_failed', 'upstream_invalid']),
  503: refusal(503, [...GUARD, 'no_backend', 'upstream_failed', 'upstream_timeout', 'price_missing'], {
    headers: AgainAndWhether,
  }),
}
