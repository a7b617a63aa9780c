// adapter_config.json as PEFT writes it. Keys that are not understood are fine at their default and refused by name
// otherwise: to ignore one is to serve another model than the one that was trained.
import { z } from 'zod'
import { inputError, type Problems, quote } from '../errors.ts'
import type { Folder } from '../host.ts'
import { describeIssues, readJson } from '../read-file.ts'
import type { JsonObject } from '../strict-json.ts'

const CONFIG_FILE = 'adapter_config.json'
/** Far above any rank that still is low; bounds what a config may make us compute. */
const MAX_RANK = 65_536
/** PEFT writes 2 kB; a pattern per module of a large base, some hundreds. Both bound the work of a hostile config. */
const MAX_CONFIG_BYTES = 1024 * 1024
const MAX_PATTERNS = 10_000

const Rank = z.int().min(1).max(MAX_RANK)
const Alpha = z.number().refine((alpha) => alpha !== 0, 'an alpha of 0 switches the adapter off')

const patternOf = (value: typeof Rank | typeof Alpha) =>
  z
    .record(z.string(), value)
    .refine((pattern) => Object.keys(pattern).length <= MAX_PATTERNS, `more than ${MAX_PATTERNS} keys`)
    .nullish()

// Defaults are those of PEFT's LoraConfig: an absent key means them.
const AdapterJson = z.object({
  peft_type: z.string(),
  r: Rank.default(8),
  lora_alpha: Alpha.default(8),
  target_modules: z.union([z.array(z.string()), z.string()]).nullish(),
  use_rslora: z.boolean().default(false),
  rank_pattern: patternOf(Rank),
  alpha_pattern: patternOf(Alpha),
})

/** Each key's values that leave the algebra as we compute it; anything goes where the list is `undefined`. */
const UNDERSTOOD: Readonly<Record<string, readonly unknown[] | undefined>> = {
  peft_type: ['LORA'],
  r: undefined,
  lora_alpha: undefined,
  target_modules: undefined,
  use_rslora: undefined,
  rank_pattern: undefined,
  alpha_pattern: undefined,
  bias: ['none'],
  fan_in_fan_out: [false],
  lora_dropout: undefined,
  task_type: undefined,
  inference_mode: undefined,
  base_model_name_or_path: undefined,
  revision: undefined,
  peft_version: undefined,
  // Says which class to load the base with; the numbers do not depend on it.
  auto_mapping: undefined,
  // The other initialisations change the base's weights too, so the adapter is wrong on the base as published.
  init_lora_weights: [true, false, 'gaussian'],
  // Defaults that are not empty; they act only together with a key that is refused.
  megatron_core: ['megatron.core'],
  qalora_group_size: [16],
}

/** What to do about the refusals that people meet. */
const HELP: Readonly<Record<string, string>> = {
  use_dora: 'DoRA is not supported; merge it with PEFT, or train without it',
  modules_to_save: 'it holds full replacements, not low-rank ones; merge the adapter with PEFT, or train without it',
  init_lora_weights:
    'this initialisation changes the base; convert it with PEFT: save_pretrained(path_initial_model_for_weight_conversion=…)',
  bias: 'trained biases are not supported; train with bias="none"',
  lora_bias: 'trained biases are not supported; train with lora_bias=False',
  layer_replication: 'it changes the number of layers of the base; train on the replicated model itself',
}

export interface AdapterConfig {
  readonly r: number
  readonly loraAlpha: number
  readonly useRslora: boolean
  /** The list; `undefined` where the config gives a pattern or nothing, and the tensors alone tell. */
  readonly targetModules: readonly string[] | undefined
  /** "all-linear": every linear except the head. */
  readonly allLinear: boolean
  /** In the order of the file: the first match wins. */
  readonly rankPattern: ReadonlyMap<string, number>
  readonly alphaPattern: ReadonlyMap<string, number>
}

/** Adds to `problems` every key that cannot be honoured; throws `InputError` only where nothing can be parsed. */
export async function readAdapterConfig(folder: Folder, about: string, problems: Problems): Promise<AdapterConfig> {
  const json = await readJson(folder, CONFIG_FILE, MAX_CONFIG_BYTES)
  if (json === undefined) {
    throw inputError('file-missing', `${about}: ${folder.name}/${CONFIG_FILE} is missing; give a folder saved by PEFT`)
  }
  const parsed = AdapterJson.safeParse(json)
  if (!parsed.success) throw inputError('config-invalid', `${about}: ${CONFIG_FILE}: ${describeIssues(parsed.error)}`)
  for (const [key, value] of Object.entries(json as JsonObject)) {
    if (isHonoured(key, value)) continue
    const help = Object.hasOwn(HELP, key) ? HELP[key] : 'it is not understood, and ignoring it could change the answers'
    problems.add(
      'adapter-option',
      `${about}: ${CONFIG_FILE} has ${quote(key)} = ${quote(JSON.stringify(value))}: ${help}`,
    )
  }
  const { data } = parsed
  const targets = data.target_modules ?? undefined
  return {
    r: data.r,
    loraAlpha: data.lora_alpha,
    useRslora: data.use_rslora,
    targetModules: typeof targets === 'string' ? undefined : targets,
    allLinear: targets === 'all-linear',
    rankPattern: new Map(Object.entries(data.rank_pattern ?? {})),
    alphaPattern: new Map(Object.entries(data.alpha_pattern ?? {})),
  }
}

function isHonoured(key: string, value: unknown): boolean {
  if (Object.hasOwn(UNDERSTOOD, key)) return UNDERSTOOD[key]?.includes(value) ?? true
  return isEmpty(value)
}

/** null, false, and empty lists, objects and strings are how PEFT spells "not used". */
function isEmpty(value: unknown): boolean {
  if (typeof value === 'object' && value !== null) return Object.keys(value).length === 0
  return value === null || value === false || value === ''
}
