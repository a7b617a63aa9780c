// engine.onnx: the KV cache is an input only and the graph emits the new rows. onnxruntime-node copies every output, so a
// cache that came out again would cost more than the attention.
import { graphNames } from '../contract.ts'
import type { Form, MakeForm } from './llama.ts'
import { repeatForGroup, writeRange, writeSize, writeSoftmax } from './mask.ts'

export const makeEngineForm: MakeForm = (builder, config): Form => {
  const { layers, kvHeads, headDim, vocabSize } = config.architecture
  const pastLengths = builder.input(graphNames.pastLengths, 'int64', ['batch'])
  const logitIndices = builder.input(graphNames.logitIndices, 'int64', ['logits', 2])
  const caches = Array.from({ length: layers }, (_, layer) => ({
    key: builder.input(graphNames.cacheKey(layer), 'float32', ['batch', kvHeads, headDim, 'capacity']),
    value: builder.input(graphNames.cacheValue(layer), 'float32', ['batch', kvHeads, 'capacity', headDim]),
  }))

  // Over n = C + S keys, the cache first. Key j is in the cache's used part where j < past_lengths, which never exceeds
  // C; it is a new token that token s may see where 0 <= j - C <= s.
  const capacity = writeSize(builder, 'mask.capacity', graphNames.cacheKey(0), 3)
  const tokens = writeSize(builder, 'mask.tokens', graphNames.inputIds, 1)
  const sizes = builder.node('Concat', 'mask.sizes', [capacity.list, tokens.list], { axis: 0 })
  const total = builder.node('Add', 'mask.total', [capacity.scalar, tokens.scalar])
  const keys = writeRange(builder, 'mask.keys', builder.int(0), total)
  const token = writeRange(builder, 'mask.token', builder.int(0), tokens.scalar)
  const used = builder.node('Less', 'mask.used', [
    keys,
    builder.node('Unsqueeze', 'mask.past', [pastLengths, builder.ints(1, 2, 3)]),
  ])
  const isNew = builder.node('GreaterOrEqual', 'mask.new', [keys, capacity.scalar])
  const lastSeen = builder.node('Add', 'mask.last_seen', [token, capacity.scalar])
  const seen = builder.node('LessOrEqual', 'mask.seen', [
    keys,
    builder.node('Unsqueeze', 'mask.last_seen.rows', [lastSeen, builder.ints(1)]),
  ])
  const causal = builder.node('And', 'mask.causal', [isNew, seen])
  const allowed = repeatForGroup(builder, config, builder.node('Or', 'mask.allowed', [used, causal]))

  return {
    attend(layer, { q, k, v }) {
      const at = `layers.${layer}.attn`
      const cache = caches[layer] as { key: string; value: string }
      const newKey = builder.node('Transpose', `${at}.k.columns`, [k], { perm: [0, 1, 3, 2] })
      builder.output(graphNames.newKey(layer), newKey, 'float32', ['batch', kvHeads, headDim, 'tokens'])
      builder.output(graphNames.newValue(layer), v, 'float32', ['batch', kvHeads, 'tokens', headDim])
      const scores = builder.node(
        'Concat',
        `${at}.scores`,
        [
          builder.node('MatMul', `${at}.scores.cache`, [q, cache.key]),
          builder.node('MatMul', `${at}.scores.new`, [q, newKey]),
        ],
        { axis: -1 },
      )
      const probabilities = writeSoftmax(builder, at, scores, allowed)
      const [past, fresh] = builder.split(`${at}.split`, [probabilities, sizes], -1)
      return builder.node('Add', `${at}.context`, [
        builder.node('MatMul', `${at}.context.cache`, [past, cache.value]),
        builder.node('MatMul', `${at}.context.new`, [fresh, v]),
      ])
    },
    select: (hidden) => builder.node('GatherND', 'selected', [hidden, logitIndices]),
    finish: (logits) => builder.output(graphNames.logits, logits, 'float32', ['logits', vocabSize]),
  }
}
