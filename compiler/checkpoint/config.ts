// config.json of a Hugging Face folder → the decoder that the graph is built from; anything else is refused by name.
import { z } from 'zod'
import { ArchitectureSchema } from '../contract.ts'
import { inputError, Problems } from '../errors.ts'
import type { Folder } from '../host.ts'
import { describeIssues, readJson } from '../read-file.ts'
import type { Decoder, Traits } from './decoder.ts'
import { FAMILIES } from './families/families.ts'
import type { Family, Given } from './families/family.ts'
import { readRopeScaling } from './rope-scaling.ts'

/** Bounds on what a config may make us allocate; each is beyond any published Llama. */
const MAX_SIZE = 1 << 20
const MAX_LAYERS = 1024
const MAX_HEAD_DIM = 1024
const MAX_POSITIONS = 1 << 20

const Size = z.int().min(1).max(MAX_SIZE)
const TokenIds = z.union([z.int().min(0), z.array(z.int().min(0)).min(1).max(64)]).nullish()
const Record = z.record(z.string(), z.unknown())

// Defaults are those of transformers' LlamaConfig where the family has none of its own: an absent key means them.
const ConfigJson = z.object({
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
  rope_parameters: Record.nullish(),
  rope_scaling: Record.nullish(),
  tie_word_embeddings: z.boolean().default(false),
  eos_token_id: TokenIds,
})

const OFF = 'this family does not have it here; use a base without it'
/** Key, the values that change nothing, and the way out of any other. A family may honour a key. */
const UNSUPPORTED: readonly (readonly [string, readonly unknown[], string])[] = [
  ['attention_bias', [false, null], OFF],
  ['mlp_bias', [false, null], OFF],
  ['sliding_window', [null], OFF],
  ['use_sliding_window', [false, null], OFF],
  ['partial_rotary_factor', [1, null], OFF],
  ['attn_logit_softcapping', [null], OFF],
  ['final_logit_softcapping', [null], OFF],
  ['embedding_multiplier', [1, null], OFF],
  ['residual_multiplier', [1, null], OFF],
  ['logits_scaling', [1, null], OFF],
  ['clip_qkv', [null], OFF],
  ['use_bidirectional_attention', [false, null], 'only causal attention is supported'],
  ['scale_attn_weights', [true, null], 'scores without 1/√D are not supported'],
  ['scale_attn_by_inverse_layer_idx', [false, null], 'scores by layer are not supported'],
  ['add_cross_attention', [false, null], 'only decoders without cross attention are supported'],
  ['quantization_config', [null], 'quantised checkpoints are not supported; give the original, unquantised base'],
]

/** Throws `InputError` that lists everything in the config that this compiler cannot honour. */
export async function readConfig(folder: Folder): Promise<Decoder> {
  const json = await readJson(folder, 'config.json')
  const where = `${folder.name}/config.json`
  if (json === undefined) throw inputError('file-missing', `${where} is missing; give the folder of a checkpoint`)
  const problems = new Problems()
  const type = z.object({ model_type: z.string() }).safeParse(json)
  if (!type.success) throw inputError('config-invalid', `${where}: ${describeIssues(type.error)}`)
  const known = ArchitectureSchema.shape.family.safeParse(type.data.model_type)
  if (!known.success) {
    const supported = Object.keys(FAMILIES).join(', ')
    problems.add(
      'config-unsupported',
      `${where}: model_type is ${excerpt(type.data.model_type)}; supported are ${supported}`,
    )
  }
  const name = known.success ? known.data : 'llama'
  const family = FAMILIES[name]
  const given = withDefaults(Object.entries(json as object), family)
  const parsed = ConfigJson.safeParse(Object.fromEntries(given))
  if (!parsed.success) throw inputError('config-invalid', `${where}: ${describeIssues(parsed.error)}`)
  const config = parsed.data
  refuseUnhonoured(given, family, where, problems)
  const heads = config.num_attention_heads
  const kvHeads = config.num_key_value_heads ?? heads
  if (heads % kvHeads !== 0) {
    problems.add('config-invalid', `${where}: ${heads} heads cannot share ${kvHeads} KV heads evenly`)
  }
  const headDim = config.head_dim ?? config.hidden_size / heads
  if (!Number.isInteger(headDim) || (headDim % 2 !== 0 && family.layout.positions === undefined)) {
    problems.add('config-invalid', `${where}: the head size is ${headDim}; rotary embeddings need an even integer`)
  }
  const sizes = { layers: config.num_hidden_layers, hiddenSize: config.hidden_size, headDim }
  const own = family.traits(reader(given, where, problems), sizes)
  const ropes = readRopes(given, config, own, headDim, where, problems)
  const traits = { ...own, ...ropes.traits }
  const eosTokenIds = await readEos(folder, where, config.eos_token_id, config.vocab_size, problems)
  problems.throwIfAny()
  return {
    architecture: ArchitectureSchema.parse({
      family: name,
      hiddenSize: config.hidden_size,
      intermediateSize: config.intermediate_size,
      layers: config.num_hidden_layers,
      heads,
      kvHeads,
      headDim,
      vocabSize: config.vocab_size,
      maxPositions: ropes.positions ?? config.max_position_embeddings,
    }),
    rmsNormEps: config.rms_norm_eps,
    ropeTheta: ropes.theta,
    tiedHead: config.tie_word_embeddings,
    eosTokenIds,
    ...(Object.keys(traits).length === 0 ? {} : { traits }),
  }
}

function withDefaults(entries: readonly [string, unknown][], family: Family): Map<string, unknown> {
  const given = new Map<string, unknown>(Object.entries(family.defaults))
  for (const [key, value] of entries) given.set(family.aliases?.[key] ?? key, value)
  // An MLP without a gate is four times as wide where nothing is said.
  const hidden = given.get('hidden_size')
  if (!family.layout.gated && typeof hidden === 'number' && (given.get('intermediate_size') ?? null) === null) {
    given.set('intermediate_size', 4 * hidden)
  }
  return given
}

function refuseUnhonoured(given: ReadonlyMap<string, unknown>, family: Family, where: string, problems: Problems) {
  const act = given.get('hidden_activation') ?? given.get('hidden_act')
  if (act !== undefined && act !== null && !family.activations.some((name) => name === act)) {
    const names = family.activations.map((name) => `"${name}"`).join(', ')
    problems.add('config-unsupported', `${where}: hidden_act is ${excerpt(act)}: only ${names} is supported`)
  }
  for (const [key, harmless, help] of UNSUPPORTED) {
    if (!given.has(key) || family.honours.includes(key) || harmless.includes(given.get(key))) continue
    problems.add('config-unsupported', `${where}: ${key} is ${excerpt(given.get(key))}: ${help}`)
  }
  const rope = Record.safeParse(given.get('rope_parameters') ?? given.get('rope_scaling'))
  const part = rope.data?.partial_rotary_factor ?? 1
  if (part !== 1 && !family.honours.includes('partial_rotary_factor')) {
    problems.add('config-unsupported', `${where}: partial_rotary_factor is ${excerpt(part)}: ${OFF}`)
  }
  const types = given.get('layer_types') ?? []
  const kinds = family.honours.includes('layer_types') ? ['full_attention', 'sliding_attention'] : ['full_attention']
  const fits = Array.isArray(types) && types.every((kind) => kinds.includes(kind))
  if (!fits) {
    problems.add(
      'config-unsupported',
      `${where}: layer_types is ${excerpt(types)}: only ${kinds.join(', ')} is supported`,
    )
  }
}

function reader(given: ReadonlyMap<string, unknown>, where: string, problems: Problems): Given {
  const read = <T>(key: string, schema: z.ZodType<T>, what: string): T | undefined => {
    const value = given.get(key) ?? undefined
    if (value === undefined) return undefined
    const parsed = schema.safeParse(value)
    if (parsed.success) return parsed.data
    problems.add('config-invalid', `${where}: ${key} is ${excerpt(value)}; it must be ${what}, mend the config`)
    return undefined
  }
  return {
    number: (key) => read(key, z.number().positive(), 'a positive number'),
    count: (key, least = 1) => read(key, z.int().min(least), `an integer from ${least}`),
    boolean: (key) => read(key, z.boolean(), 'true or false'),
    list: (key) => read(key, z.array(z.unknown()).length(Number(given.get('num_hidden_layers'))), 'one a layer'),
  }
}

/** rope_parameters may be one for all layers, or one a kind of layer. */
function readRopes(
  given: ReadonlyMap<string, unknown>,
  config: z.infer<typeof ConfigJson>,
  own: Traits,
  headDim: number,
  where: string,
  problems: Problems,
): { theta: number; positions?: number; traits: Traits } {
  const all = { ...config.rope_scaling, ...config.rope_parameters }
  const perKind = Record.safeParse(all.full_attention)
  const main = new Map(Object.entries(perKind.success ? perKind.data : all))
  const local = Record.safeParse(all.sliding_attention)
  const localRope = new Map(Object.entries(local.success ? local.data : {}))
  const theta = Number(main.get('rope_theta') ?? config.rope_theta ?? 10_000)
  const localTheta = Number(localRope.get('rope_theta') ?? own.localRopeTheta ?? theta)
  if (!(theta > 0 && localTheta > 0)) {
    problems.add('config-invalid', `${where}: rope_theta must be a positive number; mend the config`)
  }
  if ((localRope.get('rope_type') ?? 'default') !== 'default') {
    problems.add('config-unsupported', `${where}: rope_type of sliding_attention must be "default"`)
  }
  const part = Number(main.get('partial_rotary_factor') ?? given.get('partial_rotary_factor') ?? 1)
  const rotaryDim = Math.trunc(headDim * part)
  if (!(part > 0 && part <= 1 && rotaryDim > 0 && rotaryDim % 2 === 0) && headDim % 2 === 0) {
    problems.add(
      'config-invalid',
      `${where}: partial_rotary_factor ${part} gives ${rotaryDim} of a head; it must be even`,
    )
  }
  const original = given.get('original_max_position_embeddings')
  const { scaling, positions } = readRopeScaling(
    main,
    {
      maxPositions: config.max_position_embeddings,
      original: typeof original === 'number' ? original : undefined,
      rotaryDim,
    },
    where,
    problems,
  )
  return {
    theta,
    ...(positions === undefined ? {} : { positions }),
    traits: {
      ...(scaling === undefined ? {} : { ropeScaling: scaling }),
      ...(rotaryDim === headDim ? {} : { rotaryDim }),
      ...(own.localRopeTheta === undefined ? {} : { localRopeTheta: localTheta }),
    },
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
