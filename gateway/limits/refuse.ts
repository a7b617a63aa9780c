// The answer where a limit is used up: OpenAI's 429, with the time after which it is worth another try.
import { GatewayError } from '../errors.ts'
import type { Full } from './claim.ts'
import { WINDOW_MS } from './limit.ts'

/** An SDK that retries by itself sleeps at most about this long; later, it would only hammer. */
const MAX_RETRY_S = 60
/** While the room is held and not used, it is free as soon as a running request ends. */
const HELD_RETRY_S = 1

const NOUNS = { requests: 'requests', tokens: 'tokens', cost: 'micro-units of cost' } as const

/** Of several limits, the one that is in the way the longest. */
export function limitExceeded(full: readonly Full[], now: number): GatewayError {
  const waits = full.map((one) => ({ ...one, waitS: waitFor(one, now) })).sort((a, b) => b.waitS - a.waitS)
  const [longest] = waits
  // It was full when it was asked for; a request that ended since has made room.
  if (longest === undefined) return tooMany('A limit was reached by requests that run at this moment.', HELD_RETRY_S)
  const { claim, waitS } = longest
  const need = claim.taken + claim.held
  const per = claim.end - claim.start === WINDOW_MS.day ? 'day' : 'minute'
  const limit = `Limit '${claim.limit}' of ${claim.most} ${NOUNS[claim.metric]} a ${per}`
  if (need > claim.most) {
    const message = `${limit}: this request may take ${need}, which no ${per} has room for. Ask for fewer tokens.`
    return tooMany(message, waitS, false)
  }
  const message = `${limit} is reached. Retry after ${waitS} s.`
  if (per === 'minute') return tooMany(message, waitS)
  return new GatewayError(
    429,
    { message, type: 'insufficient_quota', code: 'insufficient_quota' },
    { 'retry-after': String(waitS), 'x-should-retry': String(waitS <= MAX_RETRY_S) },
  )
}

function waitFor({ claim, used }: Full, now: number): number {
  const fitsWithoutHolds = used + claim.taken + claim.held <= claim.most
  return fitsWithoutHolds ? HELD_RETRY_S : Math.max(1, Math.ceil((claim.end - now) / 1000))
}

function tooMany(message: string, waitS: number, again = true): GatewayError {
  return new GatewayError(
    429,
    { message, type: 'rate_limit_error', code: 'rate_limit_exceeded' },
    { 'retry-after': String(waitS), 'x-should-retry': String(again) },
  )
}

/** Without a price, a budget in money would let everything pass. */
export const priceMissing = () =>
  new GatewayError(
    503,
    {
      message: 'A limit in money applies, and the model has no price. Ask the operator to set one.',
      type: 'api_error',
      code: 'price_missing',
    },
    { 'x-should-retry': 'false' },
  )
