// What the graphs of all encoder families are made of: linears, norms, activations, attention.
import { graphNames } from '../contract.ts'
import type { GraphBuilder } from '../graph/builder.ts'
import { writeLinear as writeProduct } from '../graph/linear.ts'
import { writeSoftmax } from '../graph/mask.ts'
import type { EncoderConfig } from './config.ts'
import type { Activation } from './details.ts'
import type { EncoderNames } from './names.ts'

export interface EncoderBuilder {
  readonly graph: GraphBuilder
  readonly config: EncoderConfig
  readonly names: EncoderNames
  readonly prefix: string
}

/** x·Wᵀ + b, W stored as [in, out]. Passes put a low-rank path on the MatMul, ahead of the bias. */
export function writeLinear({ graph, names }: EncoderBuilder, module: string, x: string): string {
  const product = writeProduct(graph, module, x, { kept: [0, 0] })
  if (!names.biased.has(module)) return product
  return graph.node('Add', `${module}.biased`, [product, graph.weight(`${module}.bias`)])
}

export function writeNorm({ graph, config, names }: EncoderBuilder, module: string, x: string): string {
  const bias = names.tensors.has(`${module}.bias`) ? [graph.weight(`${module}.bias`)] : []
  return graph.node('LayerNormalization', module, [x, graph.weight(`${module}.weight`), ...bias], {
    axis: -1,
    epsilon: { float: config.details.normEps },
  })
}

export function writeActivation({ graph }: EncoderBuilder, at: string, activation: Activation, x: string): string {
  switch (activation) {
    case 'gelu':
      return graph.node('Gelu', at, [x])
    case 'gelu_new':
    case 'gelu_pytorch_tanh':
      return graph.node('Gelu', at, [x], { approximate: { string: 'tanh' } })
    case 'relu':
      return graph.node('Relu', at, [x])
    case 'tanh':
      return graph.node('Tanh', at, [x])
    case 'silu':
      return graph.node('Mul', at, [x, graph.node('Sigmoid', `${at}.sigmoid`, [x])])
  }
}

/** bool [B, 1, 1, S]: the tokens that are no padding. */
export function writeAttended({ graph }: EncoderBuilder): string {
  const rows = graph.node('Unsqueeze', 'mask.rows', [graphNames.attentionMask, graph.ints(1, 2)])
  return graph.node('Greater', 'mask.attended', [rows, graph.int(0)])
}

/** [B, heads, S, D] each, q divided by √D → [B, S, heads·D]. `allowed`: bool, broadcast to [B, heads, S, S]. */
export function writeAttention(
  { graph, config }: EncoderBuilder,
  at: string,
  q: string,
  k: string,
  v: string,
  allowed: string,
): string {
  const { heads, headDim } = config.architecture
  const columns = graph.node('Transpose', `${at}.keys`, [k], { perm: [0, 1, 3, 2] })
  const scores = graph.node('MatMul', `${at}.scores`, [q, columns])
  const context = graph.node('MatMul', `${at}.context`, [writeSoftmax(graph, {}, at, scores, allowed), v])
  const perToken = graph.node('Transpose', `${at}.context.tokens`, [context], { perm: [0, 2, 1, 3] })
  return graph.node('Reshape', `${at}.context.flat`, [perToken, graph.ints(0, 0, heads * headDim)])
}

/** [B, S, heads·D] → [B, heads, S, D] */
export function splitHeads({ graph, config }: EncoderBuilder, at: string, x: string, heads: number): string {
  const apart = graph.node('Reshape', `${at}.apart`, [x, graph.ints(0, 0, heads, config.architecture.headDim)])
  return graph.node('Transpose', `${at}.heads`, [apart], { perm: [0, 2, 1, 3] })
}

/** The first S rows of a table of positions. */
export function positionRows({ graph }: EncoderBuilder, at: string, table: string, tokens: string): string {
  return graph.node('Slice', at, [graph.weight(table), graph.ints(0), tokens, graph.ints(0)])
}
