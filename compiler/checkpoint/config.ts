// config.json of a Hugging Face Llama folder → the facts that the graph is built from; anything else is refused by name.
import { z } from 'zod'
import { type Architecture, ArchitectureSchema } from '../contract.ts'
import { inputError, Problems } from '../errors.ts'
import type { Folder } from '../host.ts'
import { describeIssues, readJson } from '../read-file.ts'

export interface LlamaConfig {
  readonly architecture: Architecture
  readonly rmsNormEps: number
  readonly ropeTheta: number
  /** The head is the embedding. */
  readonly tiedHead: boolean
  /** Of generation_config.json where it names any, as `generate` does. */
  readonly eosTokenIds: readonly number[]
}

/** Bounds on what a config may make us allocate; each is beyond any published Llama. */
const MAX_SIZE = 1 << 20
const MAX_LAYERS = 1024
const MAX_HEAD_DIM = 1024
const MAX_POSITIONS = 1 << 20

const Size = z.int().min(1).max(MAX_SIZE)
const TokenIds = z.union([z.int().min(0), z.array(z.int().min(0)).min(1).max(64)]).nullish()
const Rope = z.object({ rope_theta: z.number().positive().optional(), rope_type: z.string().optional() })

// Defaults are those of transformers' LlamaConfig: an absent key means them.
const ConfigJson = z.object({
  model_type: z.string(),
  hidden_size: Size,
  intermediate_size: Size,
  num_hidden_layers: Size.max(MAX_LAYERS),
  num_attention_heads: Size,
  num_key_value_heads: Size.nullish(),
  head_dim: Size.max(MAX_HEAD_DIM).nullish(),
  vocab_size: Size,
  max_position_embeddings: z.int().min(1).max(MAX_POSITIONS).default(2048),
  rms_norm_eps: z.number().positive().max(1).default(1e-6),
  rope_theta: z.number().positive().optional(),
  rope_parameters: Rope.nullish(),
  tie_word_embeddings: z.boolean().default(false),
  eos_token_id: TokenIds,
})

/** Key, the values that change nothing, and the way out of any other. */
const UNSUPPORTED: readonly (readonly [string, readonly unknown[], string])[] = [
  ['rope_scaling', [null], 'scaled rotary embeddings are not supported yet; use a base without them'],
  ['attention_bias', [false], 'biases on the attention are not supported yet; use a base without them'],
  ['mlp_bias', [false], 'biases on the MLP are not supported yet; use a base without them'],
  ['hidden_act', ['silu', 'swish'], 'only "silu" is supported'],
  ['sliding_window', [null], 'sliding windows are not supported; use a base with full attention'],
  ['use_sliding_window', [false], 'sliding windows are not supported; use a base with full attention'],
  ['partial_rotary_factor', [1, null], 'partial rotary embeddings are not supported; use a base without them'],
  ['quantization_config', [null], 'quantised checkpoints are not supported; give the original, unquantised base'],
]

/** Throws `InputError` that lists everything in the config that this compiler cannot honour. */
export async function readConfig(folder: Folder): Promise<LlamaConfig> {
  const json = await readJson(folder, 'config.json')
  const where = `${folder.name}/config.json`
  if (json === undefined) throw inputError('file-missing', `${where} is missing; give the folder of a Llama checkpoint`)
  const parsed = ConfigJson.safeParse(json)
  if (!parsed.success) throw inputError('config-invalid', `${where}: ${describeIssues(parsed.error)}`)
  const config = parsed.data
  const problems = new Problems()
  if (config.model_type !== 'llama') {
    problems.add('config-unsupported', `${where}: model_type is "${config.model_type}"; only "llama" is supported`)
  }
  const given = new Map<string, unknown>(Object.entries(json as object))
  for (const [key, harmless, help] of UNSUPPORTED) {
    if (!given.has(key) || harmless.includes(given.get(key))) continue
    problems.add('config-unsupported', `${where}: ${key} is ${excerpt(given.get(key))}: ${help}`)
  }
  const ropeType = config.rope_parameters?.rope_type ?? 'default'
  if (ropeType !== 'default') {
    problems.add('config-unsupported', `${where}: rope_type is "${ropeType}"; only "default" is supported`)
  }
  const heads = config.num_attention_heads
  const kvHeads = config.num_key_value_heads ?? heads
  if (heads % kvHeads !== 0) {
    problems.add('config-invalid', `${where}: ${heads} heads cannot share ${kvHeads} KV heads evenly`)
  }
  const headDim = config.head_dim ?? config.hidden_size / heads
  if (!Number.isInteger(headDim) || headDim % 2 !== 0) {
    problems.add('config-invalid', `${where}: the head size is ${headDim}; rotary embeddings need an even integer`)
  }
  const eosTokenIds = await readEos(folder, where, config.eos_token_id, config.vocab_size, problems)
  problems.throwIfAny()
  return {
    architecture: ArchitectureSchema.parse({
      family: 'llama',
      hiddenSize: config.hidden_size,
      intermediateSize: config.intermediate_size,
      layers: config.num_hidden_layers,
      heads,
      kvHeads,
      headDim,
      vocabSize: config.vocab_size,
      maxPositions: config.max_position_embeddings,
    }),
    rmsNormEps: config.rms_norm_eps,
    ropeTheta: config.rope_parameters?.rope_theta ?? config.rope_theta ?? 10_000,
    tiedHead: config.tie_word_embeddings,
    eosTokenIds,
  }
}

async function readEos(
  folder: Folder,
  where: string,
  fromConfig: z.infer<typeof TokenIds>,
  vocabSize: number,
  problems: Problems,
): Promise<number[]> {
  const json = await readJson(folder, 'generation_config.json')
  const generation = z.object({ eos_token_id: TokenIds }).safeParse(json ?? {})
  if (!generation.success) {
    problems.add('config-invalid', `${folder.name}/generation_config.json: ${describeIssues(generation.error)}`)
    return []
  }
  const ids = [generation.data.eos_token_id ?? fromConfig ?? []].flat()
  if (ids.length === 0) {
    problems.add('config-invalid', `${where}: eos_token_id is missing; a generation would never end, so name the token`)
  }
  for (const id of ids.filter((id) => id >= vocabSize)) {
    problems.add('config-invalid', `${where}: eos_token_id ${id} is outside the vocabulary of ${vocabSize}`)
  }
  return ids
}

function excerpt(value: unknown): string {
  return JSON.stringify(value).slice(0, 100)
}
