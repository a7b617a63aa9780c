// Logits of several variants of one model on the same tokens, from the graph that a routed artifact has.

import type { Manifest } from '../contract.ts'
import { divergence } from '../verify/compare.ts'
import { runModel } from '../verify/run-model.ts'
import type { GraphSession } from '../verify/session.ts'
import type { SidePath } from '../verify/side-path.ts'

/** A text as tokens: the loss counts those from `start` on, each predicted from all before it. */
export interface TokenText {
  readonly ids: readonly number[]
  /** At least 1: nothing comes before the first. */
  readonly start: number
}

/** Texts are cut into windows of this many tokens, each by itself: its first token is then given, not predicted. */
export const WINDOW_TOKENS = 128
/** Logits that one run may give: 256 MiB as float32, for all variants. */
const MAX_LOGITS = 2 ** 26

/** Numbers of a bank that one run is fed: 256 MiB. */
const MAX_BANK = 2 ** 26

/** One window; row 0 is the base. */
export interface Scored {
  /** Per row, per predicted token in order, −ln p. */
  readonly losses: readonly Float64Array[]
  /** Per row after the base's, per predicted token, KL(base ‖ row) in nats. */
  readonly divergences: readonly Float64Array[]
}

export interface Model {
  readonly session: GraphSession
  readonly manifest: Manifest
}

export function windowsOf(texts: readonly TokenText[], maxPositions: number): TokenText[] {
  const size = Math.min(WINDOW_TOKENS, maxPositions)
  return texts.flatMap(({ ids, start }) => {
    const windows: TokenText[] = []
    for (let at = 0; at < ids.length; at += size) {
      const part = ids.slice(at, at + size)
      const from = Math.max(1, start - at)
      if (from < part.length) windows.push({ ids: part, start: from })
    }
    return windows
  })
}

/** How many rows one run may have beside the base's: bounded by the logits that come out and by the bank that goes in. */
export function rowsAtOnce({ manifest }: Model, windows: readonly TokenText[], rank: number): number {
  const longest = Math.max(1, ...windows.map(({ ids }) => ids.length))
  const logits = MAX_LOGITS / (longest * manifest.base.architecture.vocabSize)
  const bank = MAX_BANK / manifest.bank.reduce((sum, linear) => sum + rank * (linear.in + linear.out), 0)
  return Math.max(1, Math.floor(Math.min(logits, bank)) - 1)
}

export async function scoreWindow({ session, manifest }: Model, window: TokenText, side: SidePath): Promise<Scored> {
  const { architecture } = manifest.base
  const { vocabSize } = architecture
  const probe = { ids: window.ids, positions: window.ids.map((_, i) => i) }
  const [base, ...others] = await runModel(session, architecture, probe, side)
  if (base === undefined) throw new Error('sidepath bug: a run without rows')
  const distance = (logits: Float32Array) => (place: number) =>
    divergence(rowAt(base, place, vocabSize), rowAt(logits, place, vocabSize))
  return {
    losses: [base, ...others].map((logits) => lossesOf(logits, window, vocabSize)),
    divergences: others.map((logits) => overTokens(window, distance(logits))),
  }
}

function lossesOf(logits: Float32Array, window: TokenText, vocabSize: number): Float64Array {
  return overTokens(window, (place) => {
    const row = rowAt(logits, place, vocabSize)
    let max = Number.NEGATIVE_INFINITY
    for (const logit of row) max = Math.max(max, logit)
    let sum = 0
    for (const logit of row) sum += Math.exp(logit - max)
    return max + Math.log(sum) - (row[window.ids[place + 1] as number] as number)
  })
}

/** `of`: of the place before each predicted token. */
function overTokens({ ids, start }: TokenText, of: (place: number) => number): Float64Array {
  return Float64Array.from({ length: ids.length - start }, (_, i) => of(start - 1 + i))
}

function rowAt(logits: Float32Array, place: number, vocabSize: number): Float32Array {
  return logits.subarray(place * vocabSize, (place + 1) * vocabSize)
}
