// What travels with a request through the gateway, and what the outside world is to it.

import type { DrizzleD1Database } from 'drizzle-orm/d1'
import type { Context } from 'hono'
import type { Span } from '../telemetry/span.ts'
import type { Trace } from '../telemetry/trace.ts'
import type { Bindings, Config } from './config.ts'
import type { Policy } from './policy/policy.ts'
import type { PolicyCache } from './policy/policy-cache.ts'
import type { Keeping, Ledger } from './usage/ledger.ts'

export interface Timeouts {
  /** Until a backend that has not answered at all is asked whether it is there; one that is not is given up. */
  readonly connectMs: number
  /** Until the first byte of a streamed answer. */
  readonly firstByteMs: number
  /** Between two chunks of a stream; noticed after at most twice as long. */
  readonly idleMs: number
  /** Until the end of an answer that is not streamed. */
  readonly wholeAnswerMs: number
  readonly readinessMs: number
}

/** The world, as parameters: a test replaces the clock and the wire, not the code. */
export interface World {
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>
  readonly now: () => number
  readonly timeouts: Timeouts
  /** Gets the spans of every request, where there is somebody who counts. */
  readonly onSpans?: ((spans: readonly Span[]) => void) | undefined
  readonly keeping: Keeping
}

export type Principal =
  | { readonly class: 'admin'; readonly keyId: string }
  | { readonly class: 'user'; readonly policy: Policy }

export interface GatewayEnv {
  Bindings: Partial<Bindings>
  Variables: {
    requestId: string
    /** The answer has all headers that it needs. */
    isHard: boolean
    world: World
    config: Config
    db: DrizzleD1Database
    policies: PolicyCache
    /** Undefined: nobody looks. */
    trace: Trace | undefined
    ledger: Ledger
    /** Set by the guard; there is no principal for a caller who did not authenticate. */
    principal: Principal
  }
}

export type GatewayContext = Context<GatewayEnv>

export function userPolicy(c: GatewayContext): Policy {
  const principal = c.get('principal')
  if (principal.class !== 'user') throw new Error('a user route was reached without a user key')
  return principal.policy
}

export function adminKeyId(c: GatewayContext): string {
  const principal = c.get('principal')
  if (principal.class !== 'admin') throw new Error('an admin route was reached without an admin key')
  return principal.keyId
}
