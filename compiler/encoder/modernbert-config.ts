// ModernBERT's config.json, in the spelling of old and new versions of transformers; defaults are ModernBertConfig's.
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
  Theta,
  type Unsupported,
} from './details.ts'

const Rope = z.object({ rope_theta: Theta.optional(), rope_type: z.literal('default').optional() }).nullish()

const ConfigJson = z.object({
  hidden_size: Size,
  intermediate_size: Size,
  num_hidden_layers: Layers,
  num_attention_heads: Size,
  vocab_size: Size,
  max_position_embeddings: Positions.default(8192),
  norm_eps: Epsilon.default(1e-5),
  norm_bias: z.boolean().default(false),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  hidden_activation: z.enum(ACTIVATIONS).default('gelu'),
  global_attn_every_n_layers: Size.nullish(),
  layer_types: z.array(z.enum(['full_attention', 'sliding_attention'])).nullish(),
  local_attention: Size.default(128),
  global_rope_theta: Theta.nullish(),
  local_rope_theta: Theta.nullish(),
  rope_parameters: z.object({ full_attention: Rope, sliding_attention: Rope }).nullish(),
  classifier_pooling: z.enum(['cls', 'mean']).default('cls'),
  classifier_bias: z.boolean().default(false),
  classifier_activation: z.enum(ACTIVATIONS).default('gelu'),
})

const UNSUPPORTED: Unsupported = [
  ['rope_scaling', [null], 'scaled rotary embeddings are not supported; use a base without them'],
  ['quantization_config', [null], 'quantised checkpoints are not supported; give the original, unquantised base'],
]

const GLOBAL_EVERY = 3
const GLOBAL_THETA = 160_000
const LOCAL_THETA = 10_000

export function readModernBertConfig(json: unknown, where: string, problems: Problems): FamilyConfig {
  const config = parseConfig(ConfigJson, json, UNSUPPORTED, where, problems)
  const { hidden_size: hiddenSize, num_attention_heads: heads, num_hidden_layers: layers } = config
  const headDim = headDimOf(hiddenSize, heads, where, problems)
  if (headDim % 2 !== 0 && hiddenSize % heads === 0) {
    problems.add('config-invalid', `${where}: the head size is ${headDim}; rotary embeddings need an even one`)
  }
  const every = config.global_attn_every_n_layers ?? GLOBAL_EVERY
  const types = config.layer_types
  if (types && types.length !== layers) {
    problems.add('config-invalid', `${where}: layer_types has ${types.length} entries for ${layers} layers`)
  }
  const rope = config.rope_parameters
  return {
    architecture: {
      family: 'modernbert',
      hiddenSize,
      intermediateSize: config.intermediate_size,
      layers,
      heads,
      headDim,
      vocabSize: config.vocab_size,
      maxPositions: config.max_position_embeddings,
    },
    details: {
      family: 'modernbert',
      activation: config.hidden_activation,
      normEps: config.norm_eps,
      normBias: config.norm_bias,
      attentionBias: config.attention_bias,
      mlpBias: config.mlp_bias,
      isGlobal: Array.from({ length: layers }, (_, layer) =>
        types ? types[layer] === 'full_attention' : layer % every === 0,
      ),
      globalTheta: rope?.full_attention?.rope_theta ?? config.global_rope_theta ?? GLOBAL_THETA,
      localTheta: rope?.sliding_attention?.rope_theta ?? config.local_rope_theta ?? LOCAL_THETA,
      // `local_attention` is the width of the whole window; a token's own place is in neither half.
      reach: Math.floor(config.local_attention / 2),
      classifierPooling: config.classifier_pooling,
      classifierActivation: config.classifier_activation,
      classifierBias: config.classifier_bias,
    },
  }
}
