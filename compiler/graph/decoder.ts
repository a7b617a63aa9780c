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
import { writeNorm, writeNormOfSum } from './norm.ts'
import { writeTurns } from './turn.ts'

/**
 * Decoder of transformers, fp32, opset 21; operators of the standard only, unless the form is fused or weights are quantised:
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
  const turns = writeTurns(builder, config, positions, form.fused)
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
  /** What has been added to the stream, but not yet summed: the norm that reads the sum may take it up. */
  let pending: { readonly at: string; readonly value: string } | undefined
  const settle = () => {
    if (pending !== undefined) hidden = builder.node('Add', pending.at, [hidden, pending.value])
    pending = undefined
    return hidden
  }
  const read = (at: string, layer: number, which: string | undefined): string => {
    if (form.fused && pending !== undefined && which !== undefined) {
      const module = `${layout.layer(layer)}.${which}`
      const both = writeNormOfSum(builder, config, at, module, [hidden, pending.value])
      if (both !== undefined) {
        pending = undefined
        hidden = both.sum
        return both.normed
      }
    }
    return norm(at, layer, which, settle())
  }
  const add = (at: string, layer: string, value: string) => {
    pending = { at, value: writeScale(builder, `${layer}.weighed`, value, traits?.residualScale) }
    if (!form.fused) settle()
  }
  for (let layer = 0; layer < architecture.layers; layer += 1) {
    const at = `layers.${layer}`
    const { attentionIn, attentionOut, mlpIn, mlpOut } = layout.norms
    const turn = turns[layer] as (typeof turns)[number]
    const attention = writeAttention(builder, config, layer, read(`${at}.norm`, layer, attentionIn), turn, form)
    add(`${at}.attended`, `${at}.attn`, norm(`${at}.attn.out_norm`, layer, attentionOut, attention))
    const mlp = writeMlp(builder, config, layer, read(`${at}.mlp.norm`, layer, mlpIn), form)
    add(`${at}.hidden`, `${at}.mlp`, norm(`${at}.mlp.out_norm`, layer, mlpOut, mlp))
  }
  const final = writeNorm(builder, config, 'norm', layout.finalNorm, form.select(settle()))
  const logits = writeHead(builder, config.tiedHead ? layout.embedding : HEAD, final)
  const scaled = writeScale(builder, 'lm_head.scaled', logits, traits?.logitScale)
  form.finish(writeSoftcap(builder, 'lm_head.softcap', scaled, traits?.logitSoftcap))
  return builder.build()
}

function writeScale(builder: GraphBuilder, at: string, x: string, scale: number | undefined): string {
  return scale === undefined || scale === 1 ? x : builder.node('Mul', at, [x, builder.float(scale)])
}
