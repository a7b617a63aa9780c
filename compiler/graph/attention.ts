// The first half of a decoder's layer.
import type { Decoder } from '../checkpoint/decoder.ts'
import { layoutOf } from '../checkpoint/families/families.ts'
import { graphNames } from '../contract.ts'
import { MICROSOFT } from '../onnx/encode.ts'
import type { GraphBuilder } from './builder.ts'
import type { Form } from './form.ts'
import { writeNorm } from './norm.ts'
import type { Rows } from './rows.ts'
import { writeTogether } from './together.ts'
import type { Turn } from './turn.ts'

/** o(attend(turn(q(x)), turn(k(x)), v(x))), with q and k normed where the layout says so. */
export function writeAttention(
  builder: GraphBuilder,
  config: Decoder,
  layer: number,
  input: string,
  turn: Turn,
  form: Form,
): string {
  const { heads, kvHeads, headDim } = config.architecture
  const layout = layoutOf(config.architecture)
  const at = `layers.${layer}.attn`
  const parts = writeTogether(builder, config, layer, layout.qkv, input, form)
  const { q, k, v } =
    turn.tables === undefined || layout.qkNorm === 'width'
      ? writePlain(builder, config, layer, turn, form.rows, parts)
      : writeFused(builder, config, layer, turn.tables, form.rows, parts)
  const folded = builder.node('Reshape', `${at}.q`, [q, builder.ints(0, kvHeads, -1, headDim)])
  const context = form.attend(layer, { q: folded, k, v })
  const unfolded = builder.node('Reshape', `${at}.context.heads`, [context, builder.ints(0, heads, -1, headDim)])
  const perToken = builder.node('Transpose', `${at}.context.tokens`, [unfolded], { perm: [0, 2, 1, 3] })
  const flat = form.rows.flat(`${at}.context.flat`, perToken, heads)
  const [o = ''] = writeTogether(builder, config, layer, [layout.o], flat, form)
  return o
}

/** By head: [B, heads or kvHeads, S, D]. */
interface Heads {
  readonly q: string
  readonly k: string
  readonly v: string
}

/** In operators of the standard. */
function writePlain(
  builder: GraphBuilder,
  config: Decoder,
  layer: number,
  turn: Turn,
  rows: Rows,
  parts: readonly string[],
): Heads {
  const { heads, kvHeads } = config.architecture
  const at = `layers.${layer}.attn`
  const [joined, v] = writeQueriesAndKeys(builder, config, layer, rows, parts)
  const turned = writeTurned(builder, config, at, joined, turn)
  const perHead = builder.node('Transpose', `${at}.qk.heads`, [turned], { perm: [0, 2, 1, 3] })
  const [q, k] = builder.split(`${at}.apart`, [perHead, builder.ints(heads, kvHeads)], 1)
  const apart = rows.apart(`${at}.v.apart`, v, kvHeads)
  return { q, k, v: builder.node('Transpose', `${at}.v.heads`, [apart], { perm: [0, 2, 1, 3] }) }
}

/** Heads are parted once for all three, and ONNX Runtime turns queries, and keys, in one operator. */
function writeFused(
  builder: GraphBuilder,
  config: Decoder,
  layer: number,
  tables: NonNullable<Turn['tables']>,
  rows: Rows,
  parts: readonly string[],
): Heads {
  const { heads, kvHeads } = config.architecture
  const layout = layoutOf(config.architecture)
  const at = `layers.${layer}.attn`
  const [only = ''] = parts
  const joined = parts.length === 1 ? only : builder.node('Concat', `${at}.qkv`, parts, { axis: -1 })
  const apart = rows.apart(`${at}.qkv.apart`, joined, heads + 2 * kvHeads)
  const perHead = builder.node('Transpose', `${at}.qkv.heads`, [apart], { perm: [0, 2, 1, 3] })
  const sizes = builder.ints(heads, kvHeads, kvHeads)
  const [q = '', k = '', v = ''] = builder.many('Split', `${at}.apart`, [perHead, sizes], [true, true, true], {
    axis: 1,
  })
  const turn = (name: 'q' | 'k', x: string) => {
    const normed =
      layout.qkNorm === undefined
        ? x
        : writeNorm(builder, config, `${at}.${name}_norm`, `${layout.layer(layer)}.self_attn.${name}_norm`, x)
    const inputs = [normed, graphNames.positionIds, tables[name].cos, tables[name].sin]
    return builder.node('RotaryEmbedding', `${at}.${name}.turned`, inputs, {}, MICROSOFT)
  }
  return { q: turn('q', q), k: turn('k', k), v }
}

/** Queries and keys together, [B, S, heads + kvHeads, D], and the values, [B, S, kvHeads·D]. */
function writeQueriesAndKeys(
  builder: GraphBuilder,
  config: Decoder,
  layer: number,
  rows: Rows,
  parts: readonly string[],
): [string, string] {
  const { heads, kvHeads, headDim } = config.architecture
  const { qkNorm, ...layout } = layoutOf(config.architecture)
  const at = `layers.${layer}.attn`
  const [q = '', k, v] = parts
  if (qkNorm !== undefined && v === undefined) {
    const sizes = builder.ints(heads * headDim, kvHeads * headDim, kvHeads * headDim)
    const three = builder.many('Split', `${at}.qkv`, [q, sizes], [true, true, true], { axis: -1 })
    return writeQueriesAndKeys(builder, config, layer, rows, three)
  }
  if (k === undefined || v === undefined) {
    const sizes = builder.ints((heads + kvHeads) * headDim, kvHeads * headDim)
    const [joined, values] = builder.split(`${at}.qkv`, [q, sizes], -1)
    return [rows.apart(`${at}.qk.apart`, joined, heads + kvHeads), values]
  }
  const norm = (name: 'q' | 'k', x: string) =>
    writeNorm(builder, config, `${at}.${name}_norm`, `${layout.layer(layer)}.self_attn.${name}_norm`, x)
  if (qkNorm === 'head') {
    const queries = norm('q', rows.apart(`${at}.q.apart`, q, heads))
    const keys = norm('k', rows.apart(`${at}.k.apart`, k, kvHeads))
    return [builder.node('Concat', `${at}.qk`, [queries, keys], { axis: 2 }), v]
  }
  const pair = qkNorm === 'width' ? [norm('q', q), norm('k', k)] : [q, k]
  const joined = builder.node('Concat', `${at}.qk`, pair, { axis: -1 })
  return [rows.apart(`${at}.qk.apart`, joined, heads + kvHeads), v]
}

/**
 * Queries and keys turn together, and before the Transpose: ONNX Runtime would move it down here anyway, and do it twice.
 */
function writeTurned(builder: GraphBuilder, config: Decoder, at: string, x: string, { angles, scale }: Turn): string {
  if (angles === undefined) return builder.node('Mul', `${at}.qk.scaled`, [x, scale])
  const { headDim } = config.architecture
  const rotaryDim = config.traits?.rotaryDim ?? headDim
  const [part, rest] =
    rotaryDim === headDim ? [x] : builder.split(`${at}.parts`, [x, builder.ints(rotaryDim, headDim - rotaryDim)], -1)
  const [low, high] = builder.split(`${at}.halves`, [part], -1)
  const swapped = builder.node('Concat', `${at}.swapped`, [high, low], { axis: -1 })
  const turned = builder.node('Add', `${at}.turned`, [
    builder.node('Mul', `${at}.x_cos`, [part, angles.cos]),
    builder.node('Mul', `${at}.swapped_sin`, [swapped, angles.sin]),
  ])
  if (rest === undefined) return turned
  const still = builder.node('Mul', `${at}.rest`, [rest, scale])
  return builder.node('Concat', `${at}.whole`, [turned, still], { axis: -1 })
}
