// What the middleware leaves for the routes.

import type { TraceContext } from '../../telemetry/trace-context.ts'
import type { Capability } from '../contract.ts'

export interface Env {
  Variables: {
    requestId: string
    /** Where the caller sent one. */
    trace: TraceContext | undefined
    /** Verified. Not set on the public routes. */
    capability: Capability
  }
}

/** One structured line. Never a prompt, a token of text or a secret. */
export type Log = (event: Readonly<Record<string, unknown>>) => void
