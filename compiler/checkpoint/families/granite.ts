// Granite: a Llama with a factor on the embedding, the scores, both halves of a layer and the logits.
import { LLAMA_LAYOUT } from '../decoder.ts'
import { ATTENTION, biases, type Family, MLP, SILU } from './family.ts'

export const granite: Family = {
  layout: LLAMA_LAYOUT,
  defaults: {},
  activations: SILU,
  honours: ['attention_bias', 'mlp_bias', 'embedding_multiplier', 'residual_multiplier', 'logits_scaling'],
  traits: (given) => ({
    ...biases([given.boolean('attention_bias'), ATTENTION], [given.boolean('mlp_bias'), MLP]),
    embeddingScale: given.number('embedding_multiplier') ?? 1,
    attentionScale: given.number('attention_multiplier') ?? 1,
    residualScale: given.number('residual_multiplier') ?? 1,
    logitScale: 1 / (given.number('logits_scaling') ?? 1),
  }),
}
