// What a pull says when it cannot go on: a typed error with a stable code, and apart from it what may pass by itself.

export type PullCode =
  | 'reference-invalid'
  | 'endpoint-invalid'
  | 'token-invalid'
  | 'pattern-invalid'
  | 'not-found'
  | 'unauthorised'
  | 'rate-limited'
  | 'hub-unavailable'
  | 'hub-answer'
  | 'redirect-refused'
  | 'path-refused'
  | 'too-large'
  | 'nothing-selected'
  | 'disk-space'
  | 'digest-mismatch'
  | 'out-occupied'
  | 'interrupted'

/** The sentence never holds the token, a query string or text that a server chose. */
export class PullError extends Error {
  override readonly name = 'PullError'
  readonly code: PullCode

  constructor(code: PullCode, message: string) {
    super(message)
    this.code = code
  }
}

/** May be gone at the next try: a cut connection, 429, 5xx. Becomes `final` where the tries are used up. */
export class Transient extends Error {
  override readonly name = 'Transient'
  readonly final: PullError
  /** What the server asked for, in milliseconds. */
  readonly retryAfterMs: number | undefined

  constructor(final: PullError, retryAfterMs?: number) {
    super(final.message)
    this.final = final
    this.retryAfterMs = retryAfterMs
  }
}
