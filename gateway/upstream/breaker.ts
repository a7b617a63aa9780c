// A circuit breaker as arithmetic: a state, what happened, and when. Who keeps the state keeps it for one backend.

/** Failures in a row, so that one slow answer closes nobody out. */
export const FAILURES_TO_OPEN = 5
export const FIRST_PAUSE_MS = 2_000
export const LONGEST_PAUSE_MS = 60_000

export interface Breaker {
  /** In a row. */
  readonly failures: number
  /** Nothing goes through before that; then one trial at a time. */
  readonly closedOutUntil: number
  readonly pauseMs: number
  /** One request went through to see whether it is back. */
  readonly onTrial: boolean
}

export const CLOSED: Breaker = { failures: 0, closedOutUntil: Number.NEGATIVE_INFINITY, pauseMs: 0, onTrial: false }

export type Phase = 'closed' | 'open' | 'half-open'

export function phaseOf(breaker: Breaker, now: number): Phase {
  if (breaker.failures < FAILURES_TO_OPEN) return 'closed'
  // Further off than it is ever set: the clock was set back since.
  const left = breaker.closedOutUntil - now
  return left > 0 && left <= LONGEST_PAUSE_MS ? 'open' : 'half-open'
}

/** Others wait for the end of the trial, or as long again, should nobody ever tell. */
export function beginTrial(breaker: Breaker, now: number): Breaker {
  if (phaseOf(breaker, now) !== 'half-open') return breaker
  return { ...breaker, closedOutUntil: now + breaker.pauseMs, onTrial: true }
}

export function afterFailure(breaker: Breaker, now: number): Breaker {
  const failures = breaker.failures + 1
  if (failures < FAILURES_TO_OPEN) return { ...breaker, failures }
  // Requests that were under way when it opened fail too: that makes the pause no longer.
  if (phaseOf(breaker, now) === 'open' && !breaker.onTrial) return { ...breaker, failures }
  const pauseMs = Math.min(breaker.pauseMs === 0 ? FIRST_PAUSE_MS : breaker.pauseMs * 2, LONGEST_PAUSE_MS)
  return { failures, closedOutUntil: now + pauseMs, pauseMs, onTrial: false }
}
