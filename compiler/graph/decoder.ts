// A decoder as an ONNX graph. What the two forms of the graph share is here; how each keeps its past is its own.
import { type Decoder, HEAD } from '../checkpoint/decoder.ts'
import { layoutOf } from '../checkpoint/families/families.ts'
import { graphNames } from '../contract.ts'
import type { ExternalTensor, Graph } from '../onnx/model.ts'
import { writeAttention } from './attention.ts'
import { GraphBuilder } from './builder.ts'
import type { MakeForm } from './form.ts'
import { writeEmbedding, writeHead } from './linear.ts'
import { writeSoftcap } from './mask.ts'
import { writeMlp } from './mlp.ts'
import { writeNorm } from './norm.ts'
import { writeTurns } from './turn.ts'

/**
 * Decoder of transformers, fp32, opset 21, operators of the standard only:
 * h += n₂(o(attend(q(n₁(h)), k(n₁(h)), v(n₁(h))))); h += n₄(down(act(gate(n₃(h))) · up(n₃(h)))); each n where the layout has it.
 */
export function buildDecoder(
  config: Decoder,
  weights: readonly ExternalTensor[],
  name: string,
  makeForm: MakeForm,
): Graph {
  const { architecture, traits } = config
  const layout = layoutOf(architecture)
  const builder = new GraphBuilder(name, weights)
  const ids = builder.input(graphNames.inputIds, 'int64', ['batch', 'tokens'])
  const positions = builder.input(graphNames.positionIds, 'int64', ['batch', 'tokens'])
  const form = makeForm(builder, config)
  const turns = writeTurns(builder, config, positions)
  let hidden = writeEmbedding(builder, layout.embedding, ids)
  hidden = writeScale(builder, 'embed.scaled', hidden, traits?.embeddingScale)
  if (layout.positions !== undefined) {
    const learned = builder.node('Gather', 'embed.positions', [builder.weight(layout.positions), positions], {
      axis: 0,
    })
    hidden = builder.node('Add', 'embed.placed', [hidden, learned])
  }
  hidden = form.rows.enter(hidden)
  const norm = (at: string, layer: number, which: string | undefined, x: string) =>
    which === undefined ? x : writeNorm(builder, config, at, `${layout.layer(layer)}.${which}`, x)
  for (let layer = 0; layer < architecture.layers; layer += 1) {
    const at = `layers.${layer}`
    const { attentionIn, attentionOut, mlpIn, mlpOut } = layout.norms
    const read = norm(`${at}.norm`, layer, attentionIn, hidden)
    const attention = writeAttention(builder, config, layer, read, turns[layer] as (typeof turns)[number], form)
    const attended = norm(`${at}.attn.out_norm`, layer, attentionOut, attention)
    hidden = builder.node('Add', `${at}.attended`, [
      hidden,
      writeScale(builder, `${at}.attn.weighed`, attended, traits?.residualScale),
    ])
    const mlp = writeMlp(builder, config, layer, norm(`${at}.mlp.norm`, layer, mlpIn, hidden))
    const thought = norm(`${at}.mlp.out_norm`, layer, mlpOut, mlp)
    hidden = builder.node('Add', `${at}.hidden`, [
      hidden,
      writeScale(builder, `${at}.mlp.weighed`, thought, traits?.residualScale),
    ])
  }
  const final = writeNorm(builder, config, 'norm', layout.finalNorm, form.select(hidden))
  const logits = writeHead(builder, config.tiedHead ? layout.embedding : HEAD, final)
  const scaled = writeScale(builder, 'lm_head.scaled', logits, traits?.logitScale)
  form.finish(writeSoftcap(builder, 'lm_head.softcap', scaled, traits?.logitSoftcap))
  return builder.build()
}

function writeScale(builder: GraphBuilder, at: string, x: string, scale: number | undefined): string {
  return scale === undefined || scale === 1 ? x : builder.node('Mul', at, [x, builder.float(scale)])
}
