// OLMo 2: norms behind each half of a layer, queries and keys normed over all heads at once.
import { LLAMA_LAYOUT } from '../decoder.ts'
import { ATTENTION, biases, type Family, SILU } from './family.ts'

export const olmo2: Family = {
  layout: {
    ...LLAMA_LAYOUT,
    norms: { attentionOut: 'post_attention_layernorm', mlpOut: 'post_feedforward_layernorm' },
    qkNorm: 'width',
  },
  defaults: { rms_norm_eps: 1e-5 },
  activations: SILU,
  honours: ['attention_bias'],
  traits: (given) => biases([given.boolean('attention_bias'), ATTENTION]),
}
