// Granite: a Llama, interleaved rows and all, with a factor on the embedding, the scores, both halves of a layer and the logits.
import { inputError } from '../../errors.ts'
import { shortestFloat } from '../shortest-float.ts'
import type { Architecture } from './architecture.ts'
import { DECODER_KEYS, decoderConfig } from './decoder-config.ts'
import { llama } from './llama.ts'

const FACTORS = {
  attention_multiplier: 'attention.scale',
  embedding_multiplier: 'embedding_scale',
  residual_multiplier: 'residual_scale',
  logits_scaling: 'logit_scale',
} as const

export const granite: Architecture = {
  ...llama,
  name: 'granite',
  keys: [...DECODER_KEYS, ...Object.values(FACTORS)],
  config: (metadata, tensors) => {
    // In this architecture alone the key says whether heads turn at all.
    if (metadata.boolean('granite.rope.scaling.finetuned') === false) {
      throw inputError(
        'gguf-unsupported',
        `${metadata.file}: granite.rope.scaling.finetuned is false, a Granite without rotary embeddings, which is not read`,
      )
    }
    const factors = Object.entries(FACTORS).flatMap(([name, key]) => {
      const value = metadata.number(`granite.${key}`)
      return value === undefined ? [] : [[name, shortestFloat(value)] as const]
    })
    const config = decoderConfig(metadata, tensors)
    const plainScale = Number(config.head_dim) ** -0.5
    return {
      model_type: 'granite',
      ...config,
      attention_multiplier: plainScale,
      ...Object.fromEntries(factors),
      attention_bias: tensors.has('blk.0.attn_q.bias'),
      mlp_bias: tensors.has('blk.0.ffn_up.bias'),
    }
  },
}
