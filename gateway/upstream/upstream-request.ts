// One request that was decided and may go to any of the backends that were picked for it.
import type { Capability } from '../../gpu-backend/contract.ts'
import type { Trace } from '../../telemetry/trace.ts'
import type { Endpoint } from '../infer/parse-request.ts'
import type { Secrets } from './credential.ts'

export interface Upstream {
  readonly endpoint: Endpoint
  readonly path: string
  readonly body: string
  readonly stream: boolean
  readonly claims: Capability
  /** The claims, signed: for our own backends. */
  readonly capability: string
  /** For all others. */
  readonly secrets: Secrets
  readonly saltKey: string
  readonly requestId: string
  readonly traceparent: string
  readonly trace: Trace | undefined
  /** The caller's: aborts when the caller hangs up. */
  readonly signal: AbortSignal
}
