// Errors that a caller may see, in OpenAI's shape. Whatever is not a GatewayError is a 500 that says nothing.
import type { ContentfulStatusCode } from 'hono/utils/http-status'

type ErrorType =
  | 'invalid_request_error'
  | 'authentication_error'
  | 'permission_error'
  | 'rate_limit_error'
  | 'insufficient_quota'
  | 'api_error'

export interface ErrorBody {
  readonly error: { message: string; type: ErrorType; param: string | null; code: string | null }
}

export class GatewayError extends Error {
  readonly status: ContentfulStatusCode
  readonly body: ErrorBody
  readonly headers: Readonly<Record<string, string>>

  constructor(
    status: ContentfulStatusCode,
    error: { message: string; type: ErrorType; param?: string | null; code: string | null },
    headers: Readonly<Record<string, string>> = {},
  ) {
    super(error.code ?? error.message)
    this.status = status
    this.body = {
      error: { message: error.message, type: error.type, param: error.param ?? null, code: error.code },
    }
    this.headers = headers
  }
}

/** One answer for absent, malformed, unknown, wrong, expired and disabled keys. */
export const invalidApiKey = () =>
  new GatewayError(
    401,
    { message: 'The API key is missing or not valid.', type: 'authentication_error', code: 'invalid_api_key' },
    { 'www-authenticate': 'Bearer' },
  )

export const wrongKeyClass = () =>
  new GatewayError(403, {
    message: 'This route needs a key of another class: user keys are for /v1, admin keys for /admin.',
    type: 'permission_error',
    code: 'wrong_key_class',
  })

/**
 * One answer for unknown, forbidden, expired and disabled models and for those of other tenants. It does not repeat the
 * name, so that any two refusals are the same bytes.
 */
export const modelNotFound = () =>
  new GatewayError(404, {
    message: 'The model does not exist or you do not have access to it.',
    type: 'invalid_request_error',
    param: 'model',
    code: 'model_not_found',
  })

export const notFound = () =>
  new GatewayError(404, { message: 'No such resource.', type: 'invalid_request_error', code: 'not_found' })

export const badRequest = (message: string, code: string, param: string | null = null) =>
  new GatewayError(400, { message, type: 'invalid_request_error', param, code })

export const upstreamError = (
  status: 502 | 503,
  code: 'no_backend' | 'upstream_failed' | 'upstream_timeout' | 'upstream_invalid',
  headers: Readonly<Record<string, string>> = {},
) =>
  new GatewayError(status, { message: 'The model could not be reached. Try again.', type: 'api_error', code }, headers)

export const misconfigured = () =>
  new GatewayError(503, {
    message: 'The gateway is not configured.',
    type: 'api_error',
    code: 'gateway_misconfigured',
  })

export const databaseUnavailable = () =>
  new GatewayError(
    503,
    { message: 'The gateway cannot decide now. Try again.', type: 'api_error', code: 'database_unavailable' },
    { 'retry-after': '1' },
  )

export const issuerUnavailable = () =>
  new GatewayError(
    503,
    { message: 'The keys of the issuer cannot be read now. Try again.', type: 'api_error', code: 'issuer_unavailable' },
    { 'retry-after': '5' },
  )

export const internalError = () =>
  new GatewayError(500, { message: 'Internal error.', type: 'api_error', code: 'internal_error' })
