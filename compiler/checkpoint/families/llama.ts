// Llama 2 and 3, SmolLM2.
import { LLAMA_LAYOUT } from '../decoder.ts'
import { ATTENTION, biases, type Family, MLP, SILU } from './family.ts'

export const llama: Family = {
  layout: LLAMA_LAYOUT,
  defaults: {},
  activations: SILU,
  honours: ['attention_bias', 'mlp_bias'],
  traits: (given) => biases([given.boolean('attention_bias'), ATTENTION], [given.boolean('mlp_bias'), MLP]),
}
