// Gemma 2: norms stored as 1 + w, on both sides of each half, soft caps, every second layer with a window.
import type { Metadata } from '../metadata.ts'
import type { GgufTensor } from '../read.ts'
import type { Architecture, ConfigJson, Place } from './architecture.ts'
import { DECODER_GLOBALS, DECODER_KEYS, DECODER_LAYER, decoderConfig } from './decoder-config.ts'

const LAYERS_OF_27B = 46

const norm = (to: string): Place => ({ to, altered: 'one-plus' })

export const GEMMA_GLOBALS: Readonly<Record<string, Place>> = {
  ...DECODER_GLOBALS,
  output_norm: norm('model.norm'),
}

export const GEMMA_LAYER: Readonly<Record<string, Place>> = {
  ...DECODER_LAYER,
  attn_norm: norm('input_layernorm'),
  post_attention_norm: norm('post_attention_layernorm'),
  ffn_norm: norm('pre_feedforward_layernorm'),
  post_ffw_norm: norm('post_feedforward_layernorm'),
}

export const gemma2: Architecture = {
  name: 'gemma2',
  globals: GEMMA_GLOBALS,
  layer: GEMMA_LAYER,
  layers: 'model.layers',
  keys: [...DECODER_KEYS, 'attention.sliding_window', 'attn_logit_softcapping', 'final_logit_softcapping'],
  config: (metadata, tensors) => ({
    model_type: 'gemma2',
    ...gemmaConfig(metadata, tensors, LAYERS_OF_27B),
    attn_logit_softcapping: metadata.number('gemma2.attn_logit_softcapping') ?? 50,
    final_logit_softcapping: metadata.number('gemma2.final_logit_softcapping') ?? 30,
  }),
}

/**
 * GGUF has no key for the factor of the scores: it is 1/√(head size), but 1/√(hidden size / heads) for the largest model of
 * a generation, which is known by its number of layers.
 */
export function gemmaConfig(
  metadata: Metadata,
  tensors: ReadonlyMap<string, GgufTensor>,
  layersOfLargest: number,
): ConfigJson {
  const prefix = metadata.need('general.architecture', metadata.string)
  const config = decoderConfig(metadata, tensors)
  const isLargest = config.num_hidden_layers === layersOfLargest
  return {
    ...config,
    hidden_act: 'gelu_pytorch_tanh',
    attention_bias: false,
    query_pre_attn_scalar: isLargest
      ? Number(config.hidden_size) / Number(config.num_attention_heads)
      : config.head_dim,
    // Without the key no layer has a window; without a value the family's default would be taken.
    sliding_window: metadata.number(`${prefix}.attention.sliding_window`) || null,
  }
}
