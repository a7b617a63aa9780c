// engine.onnx: the KV cache is an input only and the graph emits the new rows. onnxruntime-node copies every output, so a
// cache that came out again would cost more than the attention.
import { graphNames } from '../contract.ts'
import type { Form, MakeForm } from './form.ts'
import { masksByLayer, repeatForGroup, writeRange, writeSize, writeSoftmax } from './mask.ts'
import { rowsFlat, rowsInGroups } from './rows.ts'
import type { Site } from './sites.ts'

interface EngineOptions {
  /** Where low-rank paths of groups of rows will attach, whose factors are inputs of this graph. */
  readonly sites?: readonly Site[]
  /** The same for one adapter that all rows use. */
  readonly shared?: readonly Site[]
  /** False where a pass looks for each linear by itself. */
  readonly joined?: boolean
}

export const makeEngineForm =
  ({ sites = [], shared = [], joined = true }: EngineOptions = {}): MakeForm =>
  (builder, config): Form => {
    const { layers, kvHeads, headDim, hiddenSize, vocabSize } = config.architecture
    const pastLengths = builder.input(graphNames.pastLengths, 'int64', ['batch'])
    const logitIndices = builder.input(graphNames.logitIndices, 'int64', ['logits', 2])
    const caches = Array.from({ length: layers }, (_, layer) => ({
      key: builder.input(graphNames.cacheKey(layer), 'float32', ['batch', kvHeads, headDim, 'capacity']),
      value: builder.input(graphNames.cacheValue(layer), 'float32', ['batch', kvHeads, 'capacity', headDim]),
    }))

    const [firstFactor] = sites.map((site) => {
      // The ranks of two sites may differ, and one name for two sizes would say that they are equal.
      const [sum, rank] = [`${site.name}.ranks`, `${site.name}.rank`]
      const A = builder.input(graphNames.pathA(site.name), 'float32', ['groups', site.linears[0]?.in ?? 0, sum])
      for (const { module, out } of site.linears) {
        builder.input(graphNames.pathB(module), 'float32', ['groups', rank, out])
      }
      return A
    })

    for (const { name, linears } of shared) {
      const out = linears.reduce((sum, linear) => sum + linear.out, 0)
      const rank = `${name}.rank`
      builder.input(graphNames.sharedA(name), 'float32', [linears[0]?.in ?? 0, rank])
      builder.input(graphNames.sharedB(name), 'float32', [rank, out])
    }

    // Over n = C + S keys, the cache first. Key j is in the cache's used part where j < past_lengths, which never exceeds
    // C; it is a new token that token s may see where 0 <= j - C <= s.
    const capacity = writeSize(builder, 'mask.capacity', graphNames.cacheKey(0), 3)
    const tokens = writeSize(builder, 'mask.tokens', graphNames.inputIds, 1)
    const sizes = builder.node('Concat', 'mask.sizes', [capacity.list, tokens.list], { axis: 0 })
    const total = builder.node('Add', 'mask.total', [capacity.scalar, tokens.scalar])
    const keys = writeRange(builder, 'mask.keys', builder.int(0), total)
    const token = writeRange(builder, 'mask.token', builder.int(0), tokens.scalar)
    const past = builder.node('Unsqueeze', 'mask.past', [pastLengths, builder.ints(1, 2, 3)])
    const used = builder.node('Less', 'mask.used', [keys, past])
    const isNew = builder.node('GreaterOrEqual', 'mask.new', [keys, capacity.scalar])
    const lastSeen = builder.node('Add', 'mask.last_seen', [token, capacity.scalar])
    const lastSeenRows = builder.node('Unsqueeze', 'mask.last_seen.rows', [lastSeen, builder.ints(1)])
    const seen = builder.node('LessOrEqual', 'mask.seen', [keys, lastSeenRows])
    const causal = builder.node('And', 'mask.causal', [isNew, seen])
    const masks = masksByLayer(config, (window) => {
      if (window === null) return repeatForGroup(builder, config, builder.node('Or', 'mask.allowed', [used, causal]))
      // Token s is the row's number past + s: of the cache it sees j > past + s - w, of the new ones j - C > s - w.
      const at = `mask.window.${window}`
      const tokenRows = builder.node('Unsqueeze', `${at}.rows`, [token, builder.ints(1)])
      const own = builder.node('Add', `${at}.own`, [past, tokenRows])
      const nearOld = builder.node('Greater', `${at}.near_old`, [
        keys,
        builder.node('Sub', `${at}.before_old`, [own, builder.int(window)]),
      ])
      const nearNew = builder.node('Greater', `${at}.near_new`, [
        keys,
        builder.node('Sub', `${at}.before_new`, [lastSeenRows, builder.int(window)]),
      ])
      const old = builder.node('And', `${at}.old`, [used, nearOld])
      const fresh = builder.node('And', `${at}.new`, [causal, nearNew])
      return repeatForGroup(builder, config, builder.node('Or', `${at}.allowed`, [old, fresh]), at)
    })

    const rows =
      firstFactor === undefined
        ? rowsFlat(builder, hiddenSize, headDim)
        : rowsInGroups(builder, firstFactor, hiddenSize, headDim)
    return {
      rows,
      fused: true,
      joined,
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
        const probabilities = writeSoftmax(builder, config, at, scores, masks[layer] as string)
        const [past, fresh] = builder.split(`${at}.split`, [probabilities, sizes], -1)
        return builder.node('Add', `${at}.context`, [
          builder.node('MatMul', `${at}.context.cache`, [past, cache.value]),
          builder.node('MatMul', `${at}.context.new`, [fresh, v]),
        ])
      },
      select: (hidden) => builder.node('GatherND', 'selected', [rows.leave(hidden), logitIndices]),
      finish: (logits) => builder.output(graphNames.logits, logits, 'float32', ['logits', vocabSize]),
    }
  }
