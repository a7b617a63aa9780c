// What the two forms' attention has in common: how a score is excluded.
import type { Decoder } from '../checkpoint/decoder.ts'
import type { GraphBuilder } from './builder.ts'

/**
 * Half of fp32's lowest: exp(x - max) is 0 exactly beside any real score, and x - max does not overflow. The score is
 * replaced, not added to: nothing that a masked cache entry holds can reach the result.
 */
const EXCLUDED = -1.7014118346046923e38

/** Scores [B, H, G·S, n] → probabilities; `allowed` is bool [B, 1, G·S, n]. */
export function writeSoftmax(
  builder: GraphBuilder,
  { traits }: Pick<Decoder, 'traits'>,
  at: string,
  scores: string,
  allowed: string,
): string {
  const capped = writeSoftcap(builder, `${at}.softcap`, scores, traits?.attentionSoftcap)
  const masked = builder.node('Where', `${at}.masked`, [allowed, capped, builder.float(EXCLUDED)])
  return builder.node('Softmax', `${at}.probabilities`, [masked], { axis: -1 })
}

/** cap · tanh(x / cap) */
export function writeSoftcap(builder: GraphBuilder, at: string, x: string, cap: number | undefined): string {
  if (cap === undefined) return x
  const small = builder.node('Div', `${at}.divided`, [x, builder.float(cap)])
  return builder.node('Mul', at, [builder.node('Tanh', `${at}.tanh`, [small]), builder.float(cap)])
}

/**
 * bool [B, 1, S, n] → [B, 1, G·S, n]: the rows of each query head of a group, one group of S after the other.
 * `at`: the mask's own name where there are several.
 */
export function repeatForGroup(builder: GraphBuilder, { architecture }: Decoder, allowed: string, at = 'mask'): string {
  const group = architecture.heads / architecture.kvHeads
  return group === 1 ? allowed : builder.node('Tile', `${at}.group`, [allowed, builder.ints(1, 1, group, 1)])
}

/** Each layer's mask, made once for each window among the layers. `make`: null sees all. */
export function masksByLayer(
  { architecture, traits }: Decoder,
  make: (window: number | null) => string,
): readonly string[] {
  const windows = Array.from({ length: architecture.layers }, (_, layer) => traits?.windows?.[layer] ?? null)
  const made = new Map([...new Set(windows)].map((window) => [window, make(window)]))
  return windows.map((window) => made.get(window) as string)
}

/** A size of `value` as a tensor of shape [1] and as a scalar. */
export function writeSize(builder: GraphBuilder, at: string, value: string, axis: number) {
  const list = builder.node('Shape', at, [value], { start: axis, end: axis + 1 })
  return { list, scalar: builder.node('Squeeze', `${at}.scalar`, [list]) }
}

/** from, from + 1, … below `to`; all scalars. */
export function writeRange(builder: GraphBuilder, at: string, from: string, to: string): string {
  return builder.node('Range', at, [from, to, builder.int(1)])
}
