// Every error as OpenAI writes it. What we did not foresee is a 500 that says nothing of its cause.
import type { Context } from 'hono'
import { JobsError, type JobsErrorCode } from '../errors.ts'

type Status = 400 | 401 | 404 | 409 | 413 | 415 | 416 | 429 | 500 | 503 | 507

/** The codes that belong to the start of the service never reach a caller. */
const STATUS: Partial<Record<JobsErrorCode, Status>> = {
  request_invalid: 400,
  blob_mismatch: 400,
  blob_missing: 400,
  token_invalid: 401,
  not_found: 404,
  blob_in_use: 409,
  request_too_large: 413,
  blob_too_large: 413,
  unsupported_media_type: 415,
  range_invalid: 416,
  queue_full: 429,
  uploads_full: 429,
  streams_full: 429,
  draining: 503,
  quota_exceeded: 507,
  storage_full: 507,
}

const TYPES: Partial<Record<Status, string>> = {
  401: 'authentication_error',
  429: 'rate_limit_error',
  500: 'server_error',
  503: 'server_error',
  507: 'server_error',
}

/** A job lasts seconds to minutes. */
const RETRY_AFTER_S = '5'

export function answerError(context: Context, error: unknown): Response {
  const known = toJobsError(error)
  const status = (known && STATUS[known.code]) ?? 500
  if (status === 429 || status === 503) context.header('retry-after', RETRY_AFTER_S)
  if (status === 401) context.header('www-authenticate', 'Bearer')
  const { message, param, code } =
    known && status !== 500 ? known : { message: 'internal error', param: null, code: 'internal_error' }
  return context.json({ error: { message, type: TYPES[status] ?? 'invalid_request_error', param, code } }, status)
}

/** Undefined where the error is a fault of ours. */
export function toJobsError(error: unknown): JobsError | undefined {
  if (error instanceof JobsError) return error
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined
  if (code === 'ENOSPC' || code === 'EDQUOT') return new JobsError('storage_full', 'the disk of the service is full')
  return undefined
}
