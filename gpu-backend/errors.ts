// What the backend says when a request, an adapter or the configuration is at fault: one typed error, stable codes.

export type BackendErrorCode =
  | 'request_invalid'
  | 'context_length_exceeded'
  | 'request_too_large'
  | 'capability_invalid'
  | 'capability_scope'
  | 'model_not_found'
  | 'route_not_found'
  | 'adapter_refused'
  | 'adapter_in_use'
  | 'slots_full'
  | 'queue_full'
  | 'non_finite_logits'
  | 'draining'
  | 'engine_down'
  | 'port_in_use'
  | 'config_invalid'
  | 'artifact_unsuitable'

/** `message` may reach the caller: it never holds a path of this machine, a prompt or a secret of somebody else. */
export class BackendError extends Error {
  override readonly name = 'BackendError'
  readonly code: BackendErrorCode
  /** The field of the request that is wrong, where there is one. */
  readonly param: string | null

  constructor(code: BackendErrorCode, message: string, param: string | null = null) {
    super(message)
    this.code = code
    this.param = param
  }
}
