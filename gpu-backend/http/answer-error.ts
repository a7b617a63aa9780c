// Every error as OpenAI writes it. What we did not foresee is a 500 that says nothing of its cause.
import type { Context } from 'hono'
import { BackendError, type BackendErrorCode } from '../errors.ts'

export interface ErrorBody {
  readonly error: {
    readonly message: string
    readonly type: string
    readonly param: string | null
    readonly code: string
  }
}

type Status = 400 | 401 | 403 | 404 | 409 | 413 | 422 | 429 | 500 | 503

/** The codes that belong to the start of the backend never reach a caller. */
const STATUS: Partial<Record<BackendErrorCode, Status>> = {
  request_invalid: 400,
  context_length_exceeded: 400,
  capability_invalid: 401,
  capability_scope: 403,
  model_not_found: 404,
  route_not_found: 404,
  adapter_in_use: 409,
  request_too_large: 413,
  adapter_refused: 422,
  queue_full: 429,
  slots_full: 429,
  non_finite_logits: 500,
  draining: 503,
  engine_down: 503,
}

const TYPES: Partial<Record<Status, string>> = {
  401: 'authentication_error',
  403: 'permission_error',
  429: 'rate_limit_error',
  500: 'server_error',
  503: 'server_error',
}

/** A row lasts seconds; who comes back after one finds the queue shorter. */
const RETRY_AFTER_S = '1'

export function describeError(error: unknown): { status: Status; body: ErrorBody } {
  const known = error instanceof BackendError ? STATUS[error.code] : undefined
  if (known === undefined) return { status: 500, body: bodyOf(500, 'internal error', null, 'internal_error') }
  const { message, param, code } = error as BackendError
  return { status: known, body: bodyOf(known, message, param, code) }
}

export function answerError(context: Context, error: unknown): Response {
  const { status, body } = describeError(error)
  if (status === 429 || status === 503) context.header('retry-after', RETRY_AFTER_S)
  return context.json(body, status)
}

function bodyOf(status: Status, message: string, param: string | null, code: string): ErrorBody {
  return { error: { message, type: TYPES[status] ?? 'invalid_request_error', param, code } }
}
