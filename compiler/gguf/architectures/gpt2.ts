// GPT-2: learned positions, layer norms, and matrices that Hugging Face stores the other way round.
import { shortestFloat } from '../shortest-float.ts'
import type { Architecture, Place } from './architecture.ts'

const matrix = (to: string): Place => ({ to, altered: 'transposed' })

export const gpt2: Architecture = {
  name: 'gpt2',
  globals: {
    token_embd: { to: 'transformer.wte' },
    position_embd: { to: 'transformer.wpe' },
    output_norm: { to: 'transformer.ln_f' },
    output: { to: 'lm_head' },
  },
  layer: {
    attn_norm: { to: 'ln_1' },
    attn_qkv: matrix('attn.c_attn'),
    attn_output: matrix('attn.c_proj'),
    ffn_norm: { to: 'ln_2' },
    ffn_up: matrix('mlp.c_fc'),
    ffn_down: matrix('mlp.c_proj'),
  },
  layers: 'transformer.h',
  keys: [
    'block_count',
    'context_length',
    'embedding_length',
    'feed_forward_length',
    'attention.head_count',
    'attention.layer_norm_epsilon',
    'vocab_size',
  ],
  config: (metadata, tensors) => {
    const need = (key: string) => metadata.need(`gpt2.${key}`, metadata.number)
    return {
      model_type: 'gpt2',
      n_embd: need('embedding_length'),
      n_inner: need('feed_forward_length'),
      n_layer: need('block_count'),
      n_head: need('attention.head_count'),
      n_positions: need('context_length'),
      layer_norm_epsilon: shortestFloat(need('attention.layer_norm_epsilon')),
      activation_function: 'gelu_new',
      vocab_size: tensors.get('token_embd.weight')?.shape[0],
      tie_word_embeddings: !tensors.has('output.weight'),
    }
  },
}
