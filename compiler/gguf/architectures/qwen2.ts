// Qwen2 and Qwen2.5: biases on q, k and v, which are part of the architecture.
import type { Architecture } from './architecture.ts'
import { DECODER_GLOBALS, DECODER_KEYS, DECODER_LAYER, decoderConfig } from './decoder-config.ts'

export const qwen2: Architecture = {
  name: 'qwen2',
  globals: DECODER_GLOBALS,
  layer: DECODER_LAYER,
  layers: 'model.layers',
  keys: DECODER_KEYS,
  config: (metadata, tensors) => ({ model_type: 'qwen2', ...decoderConfig(metadata, tensors) }),
}
