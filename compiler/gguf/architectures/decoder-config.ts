// The part of config.json that every decoder with rotary embeddings and RMSNorm shares.
import { inputError } from '../../errors.ts'
import type { Metadata } from '../metadata.ts'
import type { GgufTensor } from '../read.ts'
import { shortestFloat } from '../shortest-float.ts'
import type { ConfigJson, Place } from './architecture.ts'

export const DECODER_KEYS: readonly string[] = [
  'block_count',
  'context_length',
  'embedding_length',
  'feed_forward_length',
  'attention.head_count',
  'attention.head_count_kv',
  'attention.key_length',
  'attention.value_length',
  'attention.layer_norm_rms_epsilon',
  'rope.freq_base',
  'rope.dimension_count',
  'rope.scaling.type',
  'rope.scaling.factor',
  'rope.scaling.original_context_length',
  'rope.scaling.finetuned',
  'vocab_size',
  'tensor_data_layout',
]

export const DECODER_GLOBALS: Readonly<Record<string, Place>> = {
  token_embd: { to: 'model.embed_tokens' },
  output_norm: { to: 'model.norm' },
  output: { to: 'lm_head' },
}

export const DECODER_LAYER: Readonly<Record<string, Place>> = {
  attn_norm: { to: 'input_layernorm' },
  attn_q: { to: 'self_attn.q_proj' },
  attn_k: { to: 'self_attn.k_proj' },
  attn_v: { to: 'self_attn.v_proj' },
  attn_output: { to: 'self_attn.o_proj' },
  ffn_norm: { to: 'post_attention_layernorm' },
  ffn_gate: { to: 'mlp.gate_proj' },
  ffn_up: { to: 'mlp.up_proj' },
  ffn_down: { to: 'mlp.down_proj' },
}

/**
 * Absent keys are left to the defaults of the config reader only where GGUF itself has none. `turnsPart`: the caller says in
 * the configuration how much of a head turns.
 */
export function decoderConfig(
  metadata: Metadata,
  tensors: ReadonlyMap<string, GgufTensor>,
  { turnsPart = false } = {},
): ConfigJson {
  const prefix = metadata.need('general.architecture', metadata.string)
  const need = (key: string) => metadata.need(`${prefix}.${key}`, metadata.number)
  const optional = (key: string) => metadata.number(`${prefix}.${key}`)
  const heads = need('attention.head_count')
  const hidden = need('embedding_length')
  const headDim = optional('attention.key_length') ?? hidden / heads
  for (const key of turnsPart ? ['attention.value_length'] : ['rope.dimension_count', 'attention.value_length']) {
    if ((optional(key) ?? headDim) === headDim) continue
    throw inputError(
      'gguf-unsupported',
      `${metadata.file}: ${prefix}.${key} is ${optional(key)} but heads have ${headDim}; give the Hugging Face folder`,
    )
  }
  return {
    hidden_size: hidden,
    intermediate_size: need('feed_forward_length'),
    num_hidden_layers: need('block_count'),
    num_attention_heads: heads,
    num_key_value_heads: optional('attention.head_count_kv') ?? heads,
    head_dim: headDim,
    // Rows, not the list of tokens: a vocabulary may be padded.
    vocab_size: tensors.get('token_embd.weight')?.shape[0],
    max_position_embeddings: need('context_length'),
    rms_norm_eps: shortestFloat(need('attention.layer_norm_rms_epsilon')),
    rope_theta: shortestFloat(optional('rope.freq_base') ?? 10_000),
    tie_word_embeddings: !tensors.has('output.weight'),
    hidden_act: 'silu',
  }
}
