// The form of the graph that a model learns in: no past, several texts in a row, and one prediction a target.
import { graphNames } from '../../compiler/contract.ts'
import type { Form, MakeForm } from '../../compiler/graph/form.ts'
import { masksByLayer, repeatForGroup, writeRange, writeSize, writeSoftmax } from '../../compiler/graph/mask.ts'
import { rowsApart } from '../../compiler/graph/rows.ts'
import { trainingNames } from './names.ts'

/** The nodes that the loss is cut into pieces at: hidden states that predict, and their logits. */
export const SELECTED = 'selected'
export const LOGITS = 'logits'

/**
 * Token s sees token j of its own segment where j ≤ s, and s − j below the layer's window. Position ids start anew in each
 * segment, so that a text learns the same beside others as alone.
 */
export const makeTrainingForm: MakeForm = (builder, config): Form => {
  const { vocabSize, headDim } = config.architecture
  const segments = builder.input(trainingNames.segments, 'int64', ['batch', 'tokens'])
  const places = builder.input(trainingNames.targetPlaces, 'int64', ['targets', 2])
  const { scalar: tokens } = writeSize(builder, 'mask.tokens', graphNames.inputIds, 1)
  const keys = writeRange(builder, 'mask.keys', builder.int(0), tokens)
  const rows = builder.node('Unsqueeze', 'mask.rows', [keys, builder.ints(1)])
  const causal = builder.node('LessOrEqual', 'mask.causal', [keys, rows])
  const together = builder.node('Equal', 'mask.together', [
    builder.node('Unsqueeze', 'mask.segment.rows', [segments, builder.ints(1, 3)]),
    builder.node('Unsqueeze', 'mask.segment.keys', [segments, builder.ints(1, 2)]),
  ])
  const all = builder.node('And', 'mask.allowed', [causal, together])
  const masks = masksByLayer(config, (window) => {
    if (window === null) return repeatForGroup(builder, config, all)
    const at = `mask.window.${window}`
    const before = builder.node('Sub', `${at}.before`, [rows, builder.int(window)])
    const near = builder.node('Greater', `${at}.near`, [keys, before])
    return repeatForGroup(builder, config, builder.node('And', `${at}.allowed`, [all, near]), at)
  })

  return {
    rows: rowsApart(builder, headDim),
    fused: false,
    joined: false,
    attend(layer, { q, k, v }) {
      const at = `layers.${layer}.attn`
      const turned = builder.node('Transpose', `${at}.keys`, [k], { perm: [0, 1, 3, 2] })
      const scores = builder.node('MatMul', `${at}.scores`, [q, turned])
      const probabilities = writeSoftmax(builder, config, at, scores, masks[layer] as string)
      return builder.node('MatMul', `${at}.context`, [probabilities, v])
    },
    select: (hidden) => builder.node('GatherND', SELECTED, [hidden, places]),
    finish: (logits) => builder.output(LOGITS, logits, 'float32', ['targets', vocabSize]),
  }
}
