// What follows an exposed request once it is settled, after its answer: a refusal is written down, guardrails are looked at.
import type { GatewayContext } from '../context.ts'
import { outcomes } from '../database/records.ts'
import type { Assignment } from '../infer/choose-target.ts'
import { errorFields, log } from '../log.ts'
import { enforceGuardrails, isLookDue } from './enforce-guardrails.ts'

export interface Followed {
  readonly tenantId: string
  readonly exposure: Assignment
  readonly hasGuardrails: boolean
  readonly refused: boolean
}

/** Who stops an arm where no admin asked. */
const ACTOR = 'guardrail'

export const isWorthFollowing = (requestId: string, { refused, hasGuardrails }: Followed): boolean =>
  refused || (hasGuardrails && isLookDue(requestId))

/** Never throws; a failure is logged, and the next look sees what this one did not. */
export async function followExposure(c: GatewayContext, followed: Followed): Promise<void> {
  const { tenantId, exposure, hasGuardrails, refused } = followed
  const requestId = c.get('requestId')
  try {
    if (refused) {
      // Rows for refusals only: a settled request without one did not refuse.
      const row = { tenantId, requestId, metric: 'refusal', value: 1, source: 'rule' as const }
      await c
        .get('db')
        .insert(outcomes)
        .values({ ...row, createdAt: c.get('world').now() })
        .onConflictDoNothing()
    }
    if (hasGuardrails && isLookDue(requestId)) await enforceGuardrails(c, tenantId, exposure.experimentId, ACTOR)
  } catch (error) {
    log('experiment.unfollowed', { requestId, ...errorFields(error) })
  }
}
