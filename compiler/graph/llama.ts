// A Llama decoder as an ONNX graph. What the two forms of the graph share is here; how each keeps its past is its own.
import type { LlamaConfig } from '../checkpoint/config.ts'
import { EMBEDDING, FINAL_NORM, HEAD, inputNorm, postAttentionNorm } from '../checkpoint/names.ts'
import { graphNames } from '../contract.ts'
import type { ExternalTensor, Graph } from '../onnx/model.ts'
import { GraphBuilder } from './builder.ts'
import { writeEmbedding, writeHead, writeLinear } from './linear.ts'
import { ROPE_TABLE } from './weights.ts'

/** One layer's values after the rotary embedding. B rows, S tokens, H KV heads, G query heads a KV head, D head size. */
export interface Projections {
  /** [B, H, G·S, D], divided by √D. The heads that share a KV head are folded into rows, so K and V are not copied. */
  readonly q: string
  /** [B, H, S, D] */
  readonly k: string
  /** [B, H, S, D] */
  readonly v: string
}

/** How a form of the graph keeps its past and which logits it gives. */
export interface Form {
  /** [B, H, G·S, D]: softmax(q·Kᵀ)·V over past and new tokens. */
  attend(layer: number, projections: Projections): string
  /** Hidden states [B, S, hidden] → [n, hidden], those whose logits are wanted. */
  select(hidden: string): string
  /** Logits [n, vocab] → the output. */
  finish(logits: string): void
}

export type MakeForm = (builder: GraphBuilder, config: LlamaConfig) => Form

/**
 * Decoder of transformers' LlamaForCausalLM, fp32, opset 21, operators of the standard only:
 * h += o(attend(rope(q(n(h))), rope(k(n(h))), v(n(h)))); h += down(silu(gate(n(h))) · up(n(h))); n = RMSNorm.
 */
export function buildLlama(
  config: LlamaConfig,
  weights: readonly ExternalTensor[],
  name: string,
  makeForm: MakeForm,
): Graph {
  const builder = new GraphBuilder(name, weights)
  const ids = builder.input(graphNames.inputIds, 'int64', ['batch', 'tokens'])
  const positions = builder.input(graphNames.positionIds, 'int64', ['batch', 'tokens'])
  const form = makeForm(builder, config)
  const angles = gatherAngles(builder, config, positions)
  let hidden = writeEmbedding(builder, EMBEDDING, ids)
  for (let layer = 0; layer < config.architecture.layers; layer += 1) {
    const attention = writeAttention(builder, config, layer, hidden, angles, form)
    hidden = builder.node('Add', `layers.${layer}.attended`, [hidden, attention])
    hidden = builder.node('Add', `layers.${layer}.hidden`, [hidden, writeMlp(builder, config, layer, hidden)])
  }
  const final = writeNorm(builder, config, 'norm', FINAL_NORM, form.select(hidden))
  form.finish(writeHead(builder, config.tiedHead ? EMBEDDING : HEAD, final))
  return builder.build()
}

interface Angles {
  /** [B, S, heads, D] for the query heads and then the KV heads. */
  readonly cos: string
  readonly sin: string
}

/**
 * Gathered once for all layers. rotate_half's sign goes into sin, and the 1/√D of the attention into the query heads'
 * share of both, which spares each layer two nodes.
 */
function gatherAngles(builder: GraphBuilder, { architecture }: LlamaConfig, positions: string): Angles {
  const { heads, kvHeads, headDim } = architecture
  const scale = builder.floats(
    'rope.scale',
    [1, 1, heads + kvHeads, 1],
    Array.from({ length: heads + kvHeads }, (_, head) => (head < heads ? 1 / Math.sqrt(headDim) : 1)),
  )
  const rows = builder.node('Gather', 'rope.rows', [builder.weight(ROPE_TABLE), positions], { axis: 0 })
  const perHead = builder.node('Unsqueeze', 'rope.heads', [rows, builder.ints(2)])
  const scaled = builder.node('Mul', 'rope.scaled', [perHead, scale])
  const [cos, sin] = builder.split('rope.halves', [scaled], -1)
  const minus = builder.node('Neg', 'rope.minus_sin', [sin])
  return {
    cos: builder.node('Concat', 'rope.cos', [cos, cos], { axis: -1 }),
    sin: builder.node('Concat', 'rope.sin', [minus, sin], { axis: -1 }),
  }
}

function writeAttention(
  builder: GraphBuilder,
  config: LlamaConfig,
  layer: number,
  hidden: string,
  angles: Angles,
  form: Form,
): string {
  const { heads, kvHeads, headDim } = config.architecture
  const at = `layers.${layer}.attn`
  const module = (name: string) => `model.layers.${layer}.self_attn.${name}`
  const normed = writeNorm(builder, config, `layers.${layer}.norm`, inputNorm(layer), hidden)
  const q = writeLinear(builder, module('q_proj'), normed)
  const k = writeLinear(builder, module('k_proj'), normed)
  const v = writeLinear(builder, module('v_proj'), normed)

  // Queries and keys turn together, [B, S, heads + kvHeads, D], and before the Transpose: ONNX Runtime would move it
  // down here anyway, and do it twice.
  const joined = builder.node('Concat', `${at}.qk`, [q, k], { axis: -1 })
  const x = builder.node('Reshape', `${at}.qk.apart`, [joined, builder.ints(0, 0, heads + kvHeads, headDim)])
  const [low, high] = builder.split(`${at}.halves`, [x], -1)
  const swapped = builder.node('Concat', `${at}.swapped`, [high, low], { axis: -1 })
  const turned = builder.node('Add', `${at}.turned`, [
    builder.node('Mul', `${at}.x_cos`, [x, angles.cos]),
    builder.node('Mul', `${at}.swapped_sin`, [swapped, angles.sin]),
  ])
  const perHead = builder.node('Transpose', `${at}.qk.heads`, [turned], { perm: [0, 2, 1, 3] })
  const [queries, keys] = builder.split(`${at}.apart`, [perHead, builder.ints(heads, kvHeads)], 1)

  const folded = builder.node('Reshape', `${at}.q`, [queries, builder.ints(0, kvHeads, -1, headDim)])
  const apart = builder.node('Reshape', `${at}.v.apart`, [v, builder.ints(0, 0, kvHeads, headDim)])
  const values = builder.node('Transpose', `${at}.v.heads`, [apart], { perm: [0, 2, 1, 3] })
  const context = form.attend(layer, { q: folded, k: keys, v: values })
  const unfolded = builder.node('Reshape', `${at}.context.heads`, [context, builder.ints(0, heads, -1, headDim)])
  const perToken = builder.node('Transpose', `${at}.context.tokens`, [unfolded], { perm: [0, 2, 1, 3] })
  const flat = builder.node('Reshape', `${at}.context.flat`, [perToken, builder.ints(0, 0, heads * headDim)])
  return writeLinear(builder, module('o_proj'), flat)
}

function writeMlp(builder: GraphBuilder, config: LlamaConfig, layer: number, hidden: string): string {
  const at = `layers.${layer}.mlp`
  const module = (name: string) => `model.layers.${layer}.mlp.${name}`
  const normed = writeNorm(builder, config, `${at}.norm`, postAttentionNorm(layer), hidden)
  const gate = writeLinear(builder, module('gate_proj'), normed)
  const up = writeLinear(builder, module('up_proj'), normed)
  const sigmoid = builder.node('Sigmoid', `${at}.sigmoid`, [gate])
  const silu = builder.node('Mul', `${at}.silu`, [gate, sigmoid])
  return writeLinear(builder, module('down_proj'), builder.node('Mul', `${at}.gated`, [silu, up]))
}

/** w · x / √(mean(x²) + ε), in the shape that ONNX Runtime fuses into one kernel when it loads the graph. */
function writeNorm(builder: GraphBuilder, config: LlamaConfig, at: string, weight: string, x: string): string {
  const squared = builder.node('Pow', `${at}.squared`, [x, builder.float(2)])
  const mean = builder.node('ReduceMean', `${at}.mean`, [squared, builder.ints(-1)], { keepdims: 1 })
  const shifted = builder.node('Add', `${at}.shifted`, [mean, builder.float(config.rmsNormEps)])
  const root = builder.node('Sqrt', `${at}.root`, [shifted])
  const unit = builder.node('Div', `${at}.unit`, [x, root])
  return builder.node('Mul', `${at}.scaled`, [unit, builder.weight(weight)])
}
