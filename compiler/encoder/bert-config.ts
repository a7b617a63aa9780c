// BERT's config.json; MiniLM and many sentence encoders are BERTs. Defaults are those of transformers' BertConfig.
import { z } from 'zod'
import type { Problems } from '../errors.ts'
import {
  ACTIVATIONS,
  Epsilon,
  type FamilyConfig,
  headDimOf,
  Layers,
  Positions,
  parseConfig,
  Size,
  type Unsupported,
} from './details.ts'

const ConfigJson = z.object({
  hidden_size: Size,
  intermediate_size: Size,
  num_hidden_layers: Layers,
  num_attention_heads: Size,
  vocab_size: Size,
  max_position_embeddings: Positions.default(512),
  type_vocab_size: Size.default(2),
  layer_norm_eps: Epsilon.default(1e-12),
  hidden_act: z.enum(ACTIVATIONS).default('gelu'),
})

const UNSUPPORTED: Unsupported = [
  ['position_embedding_type', ['absolute', null], 'only absolute positions are supported'],
  ['is_decoder', [false, null], 'a BERT that decodes is not supported; use it as an encoder'],
  ['add_cross_attention', [false, null], 'cross-attention is not supported; use the encoder alone'],
  ['pruned_heads', [{}, null], 'pruned heads are not supported; save the model with all heads'],
  ['quantization_config', [null], 'quantised checkpoints are not supported; give the original, unquantised base'],
]

export function readBertConfig(json: unknown, where: string, problems: Problems): FamilyConfig {
  const config = parseConfig(ConfigJson, json, UNSUPPORTED, where, problems)
  const { hidden_size: hiddenSize, num_attention_heads: heads } = config
  return {
    architecture: {
      family: 'bert',
      hiddenSize,
      intermediateSize: config.intermediate_size,
      layers: config.num_hidden_layers,
      heads,
      headDim: headDimOf(hiddenSize, heads, where, problems),
      vocabSize: config.vocab_size,
      maxPositions: config.max_position_embeddings,
    },
    details: {
      family: 'bert',
      activation: config.hidden_act,
      normEps: config.layer_norm_eps,
      tokenTypes: config.type_vocab_size,
    },
  }
}
