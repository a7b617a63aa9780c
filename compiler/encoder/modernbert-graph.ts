// ModernBERT's encoder: norm before each half of a layer, rotary positions, and attention that is local in most layers.
import { graphNames } from '../contract.ts'
import { writeRange, writeSize } from '../graph/mask.ts'
import type { ModernBertConfig } from './details.ts'
import {
  type EncoderBuilder,
  positionRows,
  splitHeads,
  writeActivation,
  writeAttended,
  writeAttention,
  writeLinear,
  writeNorm,
} from './graph-parts.ts'
import { modernBertLayer } from './names.ts'
import { GLOBAL_ROPE, LOCAL_ROPE } from './weights.ts'

/** What differs between layers that see everything and layers that see their neighbours. */
interface Kind {
  readonly allowed: string
  /** [1, S, heads, D] for the query heads, then as many for the keys; 1/√D is in the queries' share. */
  readonly cos: string
  readonly sin: string
}

/** h = n(embed); h += o(attend(rope(qkv(n(h))))); h += down(act(a)·g), [a, g] = Wi(n(h)); gives n(h) [B, S, hidden]. */
export function writeModernBert(builder: EncoderBuilder, details: ModernBertConfig): string {
  const { graph, config, prefix } = builder
  const { layers } = config.architecture
  const table = graph.weight(`${prefix}embeddings.tok_embeddings.weight`)
  const embedded = graph.node('Gather', `${prefix}embeddings.tokens`, [table, graphNames.inputIds], { axis: 0 })
  let hidden = writeNorm(builder, `${prefix}embeddings.norm`, embedded)
  const kinds = writeKinds(builder, details)
  for (let layer = 0; layer < layers; layer += 1) {
    const at = modernBertLayer(prefix, layer)
    const kind = kinds[details.isGlobal[layer] ? 'global' : 'local'] as Kind
    const normed = layer === 0 ? hidden : writeNorm(builder, `${at}.attn_norm`, hidden)
    hidden = graph.node('Add', `${at}.attended`, [hidden, writeLayerAttention(builder, at, normed, kind)])
    hidden = graph.node('Add', `${at}.hidden`, [hidden, writeMlp(builder, at, details, hidden)])
  }
  return writeNorm(builder, `${prefix}final_norm`, hidden)
}

function writeLayerAttention(builder: EncoderBuilder, at: string, x: string, { allowed, cos, sin }: Kind): string {
  const { graph, config } = builder
  const { heads, headDim, hiddenSize } = config.architecture
  const qkv = writeLinear(builder, `${at}.attn.Wqkv`, x)
  const [joined, v] = graph.split(`${at}.attn.qk_v`, [qkv, graph.ints(2 * hiddenSize, hiddenSize)], -1)
  // Queries and keys turn together, [B, S, 2·heads, D].
  const qk = graph.node('Reshape', `${at}.attn.qk.apart`, [joined, graph.ints(0, 0, 2 * heads, headDim)])
  const [low, high] = graph.split(`${at}.attn.halves`, [qk], -1)
  const swapped = graph.node('Concat', `${at}.attn.swapped`, [high, low], { axis: -1 })
  const turned = graph.node('Add', `${at}.attn.turned`, [
    graph.node('Mul', `${at}.attn.x_cos`, [qk, cos]),
    graph.node('Mul', `${at}.attn.swapped_sin`, [swapped, sin]),
  ])
  const perHead = graph.node('Transpose', `${at}.attn.qk.heads`, [turned], { perm: [0, 2, 1, 3] })
  const [q, k] = graph.split(`${at}.attn.q_k`, [perHead], 1)
  const values = splitHeads(builder, `${at}.attn.v`, v, heads)
  return writeLinear(builder, `${at}.attn.Wo`, writeAttention(builder, `${at}.attn`, q, k, values, allowed))
}

function writeMlp(builder: EncoderBuilder, at: string, { activation }: ModernBertConfig, hidden: string): string {
  const { graph } = builder
  const both = writeLinear(builder, `${at}.mlp.Wi`, writeNorm(builder, `${at}.mlp_norm`, hidden))
  const [x, gate] = graph.split(`${at}.mlp.halves`, [both], -1)
  const active = writeActivation(builder, `${at}.mlp.act`, activation, x)
  return writeLinear(builder, `${at}.mlp.Wo`, graph.node('Mul', `${at}.mlp.gated`, [active, gate]))
}

function writeKinds(builder: EncoderBuilder, { isGlobal, reach }: ModernBertConfig): Partial<Record<string, Kind>> {
  const { graph } = builder
  const attended = writeAttended(builder)
  const tokens = writeSize(graph, 'tokens', graphNames.inputIds, 1)
  const kinds: Partial<Record<string, Kind>> = {}
  if (isGlobal.includes(true)) {
    kinds.global = { allowed: attended, ...writeAngles(builder, 'rope.global', GLOBAL_ROPE, tokens.list) }
  }
  if (isGlobal.includes(false)) {
    // |i - j| ≤ reach
    const at = writeRange(graph, 'mask.at', graph.int(0), tokens.scalar)
    const rows = graph.node('Unsqueeze', 'mask.at.rows', [at, graph.ints(1)])
    const distance = graph.node('Abs', 'mask.distance', [graph.node('Sub', 'mask.offset', [rows, at])])
    const near = graph.node('LessOrEqual', 'mask.near', [distance, graph.int(reach)])
    const allowed = graph.node('And', 'mask.local', [near, attended])
    kinds.local = { allowed, ...writeAngles(builder, 'rope.local', LOCAL_ROPE, tokens.list) }
  }
  return kinds
}

/** rotate_half's sign goes into sin, and the 1/√D of the attention into the queries' share of both. */
function writeAngles(builder: EncoderBuilder, at: string, table: string, tokens: string): Omit<Kind, 'allowed'> {
  const { graph, config } = builder
  const { heads, headDim } = config.architecture
  const scale = graph.floats(
    'rope.scale',
    [1, 2 * heads, 1],
    Array.from({ length: 2 * heads }, (_, head) => (head < heads ? 1 / Math.sqrt(headDim) : 1)),
  )
  const rows = positionRows(builder, `${at}.rows`, table, tokens)
  const perHead = graph.node('Unsqueeze', `${at}.heads`, [rows, graph.ints(1)])
  const [cos, sin] = graph.split(`${at}.halves`, [graph.node('Mul', `${at}.scaled`, [perHead, scale])], -1)
  const minus = graph.node('Neg', `${at}.minus_sin`, [sin])
  return {
    cos: graph.node('Concat', `${at}.cos`, [cos, cos], { axis: -1 }),
    sin: graph.node('Concat', `${at}.sin`, [minus, sin], { axis: -1 }),
  }
}
