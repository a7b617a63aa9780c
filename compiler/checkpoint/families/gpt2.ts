// GPT-2: learned positions, layer norms, linears stored [in, out], an MLP without a gate.
import type { Layout } from '../decoder.ts'
import type { Family } from './family.ts'

const layout: Layout = {
  embedding: 'transformer.wte.weight',
  positions: 'transformer.wpe.weight',
  finalNorm: 'transformer.ln_f',
  layer: (index) => `transformer.h.${index}`,
  qkv: ['attn.c_attn'],
  o: 'attn.c_proj',
  mlp: ['mlp.c_fc'],
  gated: false,
  down: 'mlp.c_proj',
  activation: 'gelu_tanh',
  norms: { attentionIn: 'ln_1', mlpIn: 'ln_2' },
  norm: 'layer',
  storesTransposed: true,
}

export const gpt2: Family = {
  layout,
  defaults: { rms_norm_eps: 1e-5, max_position_embeddings: 1024, tie_word_embeddings: true },
  aliases: {
    n_embd: 'hidden_size',
    n_inner: 'intermediate_size',
    n_layer: 'num_hidden_layers',
    n_head: 'num_attention_heads',
    n_positions: 'max_position_embeddings',
    layer_norm_epsilon: 'rms_norm_eps',
    activation_function: 'hidden_act',
  },
  activations: ['gelu_new', 'gelu_pytorch_tanh'],
  honours: [],
  traits: () => ({ biases: [...layout.qkv, layout.o, ...layout.mlp, layout.down] }),
}
