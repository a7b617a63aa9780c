// How each layer's queries and keys are turned by their positions, and scaled: gathered once for all layers.
import type { Decoder } from '../checkpoint/decoder.ts'
import { layoutOf } from '../checkpoint/families/families.ts'
import type { GraphBuilder } from './builder.ts'
import { LOCAL_ROPE_TABLE, ROPE_TABLE } from './weights.ts'

export interface Turn {
  /** [B, S, heads, rotary part] for the query heads and then the KV heads; absent where nothing turns. */
  readonly angles?: { readonly cos: string; readonly sin: string }
  /** The same for ONNX Runtime's operator, which looks a position up itself: [positions, D/2]. Where whole heads turn. */
  readonly tables?: { readonly q: Table; readonly k: Table }
  /** [1, 1, heads, 1]: the attention's scale for the query heads, 1 for the KV heads. In `angles` already. */
  readonly scale: string
}

interface Table {
  readonly cos: string
  readonly sin: string
}

/** Per layer. `fused`: for ONNX Runtime's operator, wherever it serves. */
export function writeTurns(builder: GraphBuilder, config: Decoder, positions: string, fused: boolean): readonly Turn[] {
  const { architecture, traits } = config
  const { heads, kvHeads, headDim, layers } = architecture
  const factor = traits?.attentionScale ?? 1 / Math.sqrt(headDim)
  const scale = builder.floats(
    'rope.scale',
    [1, 1, heads + kvHeads, 1],
    Array.from({ length: heads + kvHeads }, (_, head) => (head < heads ? factor : 1)),
  )
  const everyLayer = Array.from({ length: layers }, (_, layer) => layer)
  if (layoutOf(architecture).positions !== undefined) return everyLayer.map(() => ({ scale }))
  const isLocal = (layer: number) => traits?.localRopeTheta !== undefined && (traits.windows?.[layer] ?? null) !== null
  const isWhole = (traits?.rotaryDim ?? headDim) === headDim && layoutOf(architecture).qkNorm !== 'width'
  const turn = (at: string, table: string): Turn =>
    fused && isWhole
      ? { tables: writeTables(builder, at, table, factor), scale }
      : { angles: gatherAngles(builder, at, table, positions, scale), scale }
  const main = everyLayer.every(isLocal) ? undefined : turn('rope', ROPE_TABLE)
  const local = everyLayer.some(isLocal) ? turn('rope.local', LOCAL_ROPE_TABLE) : undefined
  return everyLayer.map((layer) => (isLocal(layer) ? local : main) ?? { scale })
}

/** The attention's scale goes into the tables of the queries. Worked out when the graph is loaded. */
function writeTables(builder: GraphBuilder, at: string, table: string, factor: number): NonNullable<Turn['tables']> {
  const [cos, sin] = builder.split(`${at}.halves`, [builder.weight(table)], -1)
  const scaled = (name: string, values: string) =>
    builder.node('Mul', `${at}.${name}.scaled`, [values, builder.float(factor)])
  return { q: { cos: scaled('cos', cos), sin: scaled('sin', sin) }, k: { cos, sin } }
}

/** rotate_half's sign goes into sin, and the attention's scale into both, which spares each layer two nodes. */
function gatherAngles(builder: GraphBuilder, at: string, table: string, positions: string, scale: string) {
  const rows = builder.node('Gather', `${at}.rows`, [builder.weight(table), positions], { axis: 0 })
  const perHead = builder.node('Unsqueeze', `${at}.heads`, [rows, builder.ints(2)])
  const scaled = builder.node('Mul', `${at}.scaled`, [perHead, scale])
  const [cos, sin] = builder.split(`${at}.halves`, [scaled], -1)
  const minus = builder.node('Neg', `${at}.minus_sin`, [sin])
  return {
    cos: builder.node('Concat', `${at}.cos`, [cos, cos], { axis: -1 }),
    sin: builder.node('Concat', `${at}.sin`, [minus, sin], { axis: -1 }),
  }
}
