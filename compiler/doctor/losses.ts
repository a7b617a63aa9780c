// Losses of several variants of one model on the same texts, and what may be said of their differences.
import type { CompiledModule } from '../read-adapter.ts'
import { bankOf, type Modules } from '../verify/side-path.ts'
import { type Model, rowsAtOnce, scoreWindow, type TokenText } from './logits.ts'

/** Sums over the predicted tokens of each window. */
export interface Losses {
  /** Predicted tokens. */
  readonly tokens: readonly number[]
  readonly base: readonly number[]
  readonly variants: readonly VariantLosses[]
}

export interface VariantLosses {
  readonly losses: readonly number[]
  /** KL(base ‖ variant) in nats, over all tokens: its sum and the largest. */
  readonly kl: number
  readonly maxKl: number
}

export interface LossFigures {
  readonly tokens: number
  /** Mean −ln p, in nats, and exp of it. */
  readonly baseLoss: number
  readonly loss: number
  readonly basePerplexity: number
  readonly perplexity: number
  /** Of a token, in nats. */
  readonly meanKl: number
  readonly maxKl: number
}

export interface Difference {
  /** Mean over the tokens of what the second loses less than the first, in nats. */
  readonly value: number
  /** From window to window: tokens of one text are not independent. */
  readonly standardError: number
}

export async function measureLosses(
  model: Model,
  windows: readonly TokenText[],
  variants: readonly Modules[],
): Promise<Losses> {
  const tokens = windows.map(({ ids, start }) => ids.length - start)
  const base: number[] = []
  const measured = variants.map(() => ({ losses: [] as number[], kl: 0, maxKl: 0 }))
  const atOnce = rowsAtOnce(model, windows, rankOf(variants))
  for (let from = 0; from < variants.length; from += atOnce) {
    const side = bankOf(model.manifest, variants.slice(from, from + atOnce))
    for (const window of windows) {
      const { losses, divergences } = await scoreWindow(model, window, side)
      if (from === 0) base.push(total(losses[0]))
      for (const [place, kl] of divergences.entries()) {
        const variant = measured[from + place] as { losses: number[]; kl: number; maxKl: number }
        variant.losses.push(total(losses[place + 1]))
        variant.kl += total(kl)
        for (const value of kl) variant.maxKl = Math.max(variant.maxKl, value)
      }
    }
  }
  return { tokens, base, variants: measured }
}

export function figuresOfLoss({ tokens, base, variants }: Losses, place: number): LossFigures {
  const { losses, kl, maxKl } = variants[place] as VariantLosses
  const count = sum(tokens)
  const [baseLoss, loss] = [sum(base) / count, sum(losses) / count]
  return {
    tokens: count,
    baseLoss,
    loss,
    basePerplexity: Math.exp(baseLoss),
    perplexity: Math.exp(loss),
    meanKl: kl / count,
    maxKl,
  }
}

/** Paired, window by window: texts differ more than models do. */
export function difference(tokens: readonly number[], first: readonly number[], second: readonly number[]): Difference {
  const count = sum(tokens)
  const value = (sum(first) - sum(second)) / count
  const squares = tokens.map((n, i) => ((first[i] as number) - (second[i] as number) - n * value) ** 2)
  const windows = tokens.length
  const standardError =
    windows < 2 ? Number.POSITIVE_INFINITY : Math.sqrt((sum(squares) * windows) / (windows - 1)) / count
  return { value, standardError }
}

function rankOf(variants: readonly Modules[]): number {
  const ranks = variants.flatMap((modules) => [...modules.values()].map(({ r }: CompiledModule) => r))
  return ranks.reduce((most, r) => Math.max(most, r), 1)
}

function total(values: Float64Array = new Float64Array()): number {
  return values.reduce((all, value) => all + value, 0)
}

function sum(values: readonly number[]): number {
  return values.reduce((all, value) => all + value, 0)
}
