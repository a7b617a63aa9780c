// Prices and what tokens cost: integers throughout, micro-units of the operator's currency.
import type { prices } from '../database/schema.ts'
import type { Tokens } from '../usage/read-usage.ts'
import type { Running } from './running.ts'

/** Micro-units for a million tokens. */
export interface Price {
  readonly prompt: number
  readonly completion: number
}

export interface Prices {
  readonly adapters: ReadonlyMap<string, Price>
  readonly bases: ReadonlyMap<string, Price>
}

const PRICED_TOKENS = 1_000_000n

export function readPrices(rows: readonly (typeof prices.$inferSelect)[]): Prices {
  const adapters = new Map<string, Price>()
  const bases = new Map<string, Price>()
  for (const { adapterId, baseDigest, promptPrice: prompt, completionPrice: completion } of rows) {
    if (adapterId !== null) adapters.set(adapterId, { prompt, completion })
    else if (baseDigest !== null) bases.set(baseDigest, { prompt, completion })
  }
  return { adapters, bases }
}

/**
 * That of the adapter, else that of its base, else none. A mix is one pass of the model, so it is not the sum of its
 * parts: the dearest of them counts. With a part that has no price it has none.
 */
export function priceOf(prices: Prices, target: Running): Price | null {
  if (target.kind !== 'mix') {
    const own = target.kind === 'adapter' ? prices.adapters.get(target.id) : undefined
    return own ?? prices.bases.get(target.baseDigest) ?? null
  }
  const parts = target.parts.map(({ adapter }) => priceOf(prices, adapter))
  const known = parts.filter((price) => price !== null)
  if (known.length < parts.length) return null
  return {
    prompt: Math.max(...known.map(({ prompt }) => prompt)),
    completion: Math.max(...known.map(({ completion }) => completion)),
  }
}

/** Rounded up once for the request. Exact whatever a backend counts, and never beyond what the database holds exactly. */
export function costOf(price: Price, { promptTokens, completionTokens }: Tokens): number {
  const exact = BigInt(price.prompt) * BigInt(promptTokens) + BigInt(price.completion) * BigInt(completionTokens)
  const rounded = (exact + PRICED_TOKENS - 1n) / PRICED_TOKENS
  return rounded > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(rounded)
}
