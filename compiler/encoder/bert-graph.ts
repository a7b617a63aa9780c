// BERT's encoder: norm after each half of a layer, learned absolute positions that count from 0 whatever the padding.
import { graphNames } from '../contract.ts'
import { writeSize } from '../graph/mask.ts'
import type { BertConfig } from './details.ts'
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
import { bertLayer } from './names.ts'

/** h = n(embed); h = n(h + o(attend(q(h), k(h), v(h)))); h = n(h + down(act(up(h)))); gives h [B, S, hidden]. */
export function writeBert(builder: EncoderBuilder, { activation }: BertConfig): string {
  const { graph, config, prefix } = builder
  const { layers, heads, headDim } = config.architecture
  const attended = writeAttended(builder)
  let hidden = writeEmbeddings(builder)
  const scale = graph.float(1 / Math.sqrt(headDim))
  for (let layer = 0; layer < layers; layer += 1) {
    const at = bertLayer(prefix, layer)
    const project = (name: string) => writeLinear(builder, `${at}.attention.self.${name}`, hidden)
    const queries = graph.node('Mul', `${at}.attention.self.query.scaled`, [project('query'), scale])
    const context = writeAttention(
      builder,
      `${at}.attention`,
      splitHeads(builder, `${at}.attention.q`, queries, heads),
      splitHeads(builder, `${at}.attention.k`, project('key'), heads),
      splitHeads(builder, `${at}.attention.v`, project('value'), heads),
      attended,
    )
    const attention = writeLinear(builder, `${at}.attention.output.dense`, context)
    const sum = graph.node('Add', `${at}.attention.sum`, [attention, hidden])
    const middle = writeNorm(builder, `${at}.attention.output.LayerNorm`, sum)
    const wide = writeLinear(builder, `${at}.intermediate.dense`, middle)
    const active = writeActivation(builder, `${at}.intermediate.act`, activation, wide)
    const narrow = writeLinear(builder, `${at}.output.dense`, active)
    hidden = writeNorm(builder, `${at}.output.LayerNorm`, graph.node('Add', `${at}.sum`, [narrow, middle]))
  }
  return hidden
}

function writeEmbeddings(builder: EncoderBuilder): string {
  const { graph, prefix } = builder
  const at = `${prefix}embeddings`
  const types = graph.input(graphNames.tokenTypeIds, 'int64', ['batch', 'tokens'])
  const rows = (name: string, ids: string) =>
    graph.node('Gather', `${at}.${name}`, [graph.weight(`${at}.${name}_embeddings.weight`), ids], { axis: 0 })
  const tokens = writeSize(graph, 'tokens', graphNames.inputIds, 1)
  const typed = graph.node('Add', `${at}.typed`, [rows('word', graphNames.inputIds), rows('token_type', types)])
  const positions = positionRows(builder, `${at}.positions`, `${at}.position_embeddings.weight`, tokens.list)
  return writeNorm(builder, `${at}.LayerNorm`, graph.node('Add', `${at}.sum`, [typed, positions]))
}
