// model.onnx: the form that the ecosystem knows, past_key_values in and present out.
import { graphNames } from '../contract.ts'
import type { Form, MakeForm } from './form.ts'
import { masksByLayer, repeatForGroup, writeRange, writeSize, writeSoftmax } from './mask.ts'
import { rowsApart } from './rows.ts'

export const makeModelForm: MakeForm = (builder, config): Form => {
  const { layers, kvHeads, headDim, hiddenSize, vocabSize } = config.architecture
  const attentionMask = builder.input(graphNames.attentionMask, 'int64', ['batch', 'total'])
  const pasts = Array.from({ length: layers }, (_, layer) => ({
    key: builder.input(graphNames.pastKey(layer), 'float32', ['batch', kvHeads, 'past', headDim]),
    value: builder.input(graphNames.pastValue(layer), 'float32', ['batch', kvHeads, 'past', headDim]),
  }))

  // Token s stands at P + s of T = P + S and sees the unmasked keys up to there. A row of padding may see none: its
  // probabilities are then uniform, finite, and of no interest to any other row.
  const total = writeSize(builder, 'mask.total', graphNames.attentionMask, 1)
  const tokens = writeSize(builder, 'mask.tokens', graphNames.inputIds, 1)
  const past = builder.node('Sub', 'mask.past', [total.scalar, tokens.scalar])
  const keys = writeRange(builder, 'mask.keys', builder.int(0), total.scalar)
  const token = writeRange(builder, 'mask.token', past, total.scalar)
  const tokenRows = builder.node('Unsqueeze', 'mask.token.rows', [token, builder.ints(1)])
  const causal = builder.node('LessOrEqual', 'mask.causal', [keys, tokenRows])
  const attended = builder.node('Greater', 'mask.attended', [
    builder.node('Unsqueeze', 'mask.attention', [attentionMask, builder.ints(1, 2)]),
    builder.int(0),
  ])
  const all = builder.node('And', 'mask.allowed', [causal, attended])
  const masks = masksByLayer(config, (window) => {
    if (window === null) return repeatForGroup(builder, config, all)
    const at = `mask.window.${window}`
    const before = builder.node('Sub', `${at}.before`, [tokenRows, builder.int(window)])
    const near = builder.node('Greater', `${at}.near`, [keys, before])
    return repeatForGroup(builder, config, builder.node('And', `${at}.allowed`, [all, near]), at)
  })

  return {
    rows: rowsApart(builder, headDim),
    fused: false,
    joined: false,
    attend(layer, { q, k, v }) {
      const at = `layers.${layer}.attn`
      const before = pasts[layer] as { key: string; value: string }
      const key = builder.node('Concat', `${at}.k.all`, [before.key, k], { axis: 2 })
      const value = builder.node('Concat', `${at}.v.all`, [before.value, v], { axis: 2 })
      builder.output(graphNames.presentKey(layer), key, 'float32', ['batch', kvHeads, 'total', headDim])
      builder.output(graphNames.presentValue(layer), value, 'float32', ['batch', kvHeads, 'total', headDim])
      const transposed = builder.node('Transpose', `${at}.keys`, [key], { perm: [0, 1, 3, 2] })
      const scores = builder.node('MatMul', `${at}.scores`, [q, transposed])
      const probabilities = writeSoftmax(builder, config, at, scores, masks[layer] as string)
      return builder.node('MatMul', `${at}.context`, [probabilities, value])
    },
    select: (hidden) => builder.node('Reshape', 'flat', [hidden, builder.ints(-1, hiddenSize)]),
    finish: (logits) => {
      const batchAndTokens = builder.node('Shape', 'logits.batch_tokens', [graphNames.inputIds])
      const shape = builder.node('Concat', 'logits.shape', [batchAndTokens, builder.ints(vocabSize)], { axis: 0 })
      const shaped = builder.node('Reshape', 'logits.shaped', [logits, shape])
      builder.output(graphNames.logits, shaped, 'float32', ['batch', 'tokens', vocabSize])
    },
  }
}
