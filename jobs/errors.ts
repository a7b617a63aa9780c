// What the service says when a request or its configuration is at fault: one typed error, stable codes.

export type JobsErrorCode =
  | 'request_invalid'
  | 'request_too_large'
  | 'unsupported_media_type'
  | 'token_invalid'
  | 'not_found'
  | 'blob_too_large'
  | 'blob_mismatch'
  | 'blob_missing'
  | 'blob_in_use'
  | 'quota_exceeded'
  | 'storage_full'
  | 'queue_full'
  | 'uploads_full'
  | 'streams_full'
  | 'range_invalid'
  | 'draining'
  | 'config_invalid'
  | 'data_invalid'
  | 'port_in_use'

/** `message` may reach the caller: it never holds a path of this machine or a secret. */
export class JobsError extends Error {
  override readonly name = 'JobsError'
  readonly code: JobsErrorCode
  /** The field of the request that is wrong, where there is one. */
  readonly param: string | null

  constructor(code: JobsErrorCode, message: string, param: string | null = null) {
    super(message)
    this.code = code
    this.param = param
  }
}

/** One structured line. Never a secret, and never the message of an error that we did not write. */
export type Log = (event: Readonly<Record<string, unknown>>) => void

/** An unknown error for the log: its kind and place, since its message may hold anything. */
export function faultFields(error: unknown): { fault: string; at: string } {
  if (!(error instanceof Error)) return { fault: typeof error, at: '' }
  const { code } = error as NodeJS.ErrnoException
  return { fault: code ?? error.name, at: /^\s+at (.*)$/m.exec(error.stack ?? '')?.[1] ?? '' }
}
