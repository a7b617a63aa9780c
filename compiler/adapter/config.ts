// adapter_config.json as PEFT writes it, with PEFT's defaults for the keys that are absent.
import * as z from 'zod'
import { inputError, type Problems } from '../errors.ts'
import type { Folder } from '../host.ts'
import { describeIssues, readJson } from '../read-file.ts'
import type { JsonObject } from '../strict-json.ts'
import { checkOptions } from './options.ts'

export const CONFIG_FILE = 'adapter_config.json'
/** Far above any rank that still is low; bounds what a config may make us compute. */
const MAX_RANK = 65_536
/** PEFT writes 2 kB; a pattern per module of a large base, some hundreds. Both bound the work of a hostile config. */
export const MAX_CONFIG_BYTES = 1024 * 1024
const MAX_PATTERNS = 10_000
/** Heads and norms: a handful. Each is looked for in each name of the base. */
const MAX_SAVED_MODULES = 256
/** Names of lists of layers: one, in all models but a few. */
const MAX_LAYER_PATTERNS = 64

export const Rank = z.int().min(1).max(MAX_RANK)
export const Scale = z.number().refine((scale) => scale !== 0, '0 switches the adapter off')
const Names = z.union([z.array(z.string()), z.string()]).nullish()
const Index = z.int().min(0)
const Flag = z
  .boolean()
  .nullish()
  .transform((flag) => flag ?? false)

const patternOf = (value: typeof Rank | typeof Scale) =>
  z
    .record(z.string(), value)
    .refine((pattern) => Object.keys(pattern).length <= MAX_PATTERNS, `more than ${MAX_PATTERNS} keys`)
    .nullish()

const AdapterJson = z.object({
  peft_type: z.string(),
  r: Rank.default(8),
  lora_alpha: Scale.default(8),
  use_rslora: Flag,
  rank_pattern: patternOf(Rank),
  alpha_pattern: patternOf(Scale),
  target_modules: Names,
  exclude_modules: Names,
  modules_to_save: z.array(z.string()).max(MAX_SAVED_MODULES).nullish(),
  layers_to_transform: z.union([z.array(z.int()), z.int()]).nullish(),
  layers_pattern: z.union([z.array(z.string()).max(MAX_LAYER_PATTERNS), z.string()]).nullish(),
  trainable_token_indices: z.union([z.array(Index), z.record(z.string(), z.array(Index))]).nullish(),
  bias: z.enum(['none', 'all', 'lora_only']).default('none'),
  lora_bias: Flag,
  use_dora: Flag,
  fan_in_fan_out: Flag,
})

export interface AdapterConfig {
  readonly r: number
  readonly loraAlpha: number
  readonly useRslora: boolean
  /** In the order of the file: the first match wins. */
  readonly rankPattern: ReadonlyMap<string, number>
  readonly alphaPattern: ReadonlyMap<string, number>
  /** A list of names, a regex, or "all-linear"; `undefined` where the tensors alone tell. */
  readonly targetModules: readonly string[] | string | undefined
  readonly excludeModules: readonly string[] | string | undefined
  readonly modulesToSave: readonly string[]
  readonly layersToTransform: readonly number[]
  readonly layersPattern: readonly string[]
  /** Rows by the name of the embedding; one list where the config does not name it. */
  readonly tokens: readonly number[] | ReadonlyMap<string, readonly number[]> | undefined
  readonly bias: 'none' | 'all' | 'lora_only'
  readonly loraBias: boolean
  readonly useDora: boolean
  readonly fanInFanOut: boolean
}

/** Adds to `problems` every key that cannot be honoured; throws `InputError` only where nothing can be parsed. */
export async function readAdapterConfig(folder: Folder, about: string, problems: Problems): Promise<AdapterConfig> {
  const json = await readJson(folder, CONFIG_FILE, MAX_CONFIG_BYTES)
  if (json === undefined) {
    throw inputError('file-missing', `${about}: ${folder.name}/${CONFIG_FILE} is missing; give a folder saved by PEFT`)
  }
  const parsed = AdapterJson.safeParse(json)
  if (!parsed.success) throw inputError('config-invalid', `${about}: ${CONFIG_FILE}: ${describeIssues(parsed.error)}`)
  checkOptions(json as JsonObject, `${about}: ${CONFIG_FILE}`, problems)
  const { data } = parsed
  checkLayers(data, about, problems)
  return {
    r: data.r,
    loraAlpha: data.lora_alpha,
    useRslora: data.use_rslora,
    rankPattern: new Map(Object.entries(data.rank_pattern ?? {})),
    alphaPattern: new Map(Object.entries(data.alpha_pattern ?? {})),
    targetModules: data.target_modules ?? undefined,
    excludeModules: data.exclude_modules ?? undefined,
    modulesToSave: data.modules_to_save ?? [],
    layersToTransform: listOf(data.layers_to_transform),
    layersPattern: listOf(data.layers_pattern).filter((pattern) => pattern !== ''),
    tokens: tokensOf(data.trainable_token_indices),
    bias: data.bias,
    loraBias: data.lora_bias,
    useDora: data.use_dora,
    fanInFanOut: data.fan_in_fan_out,
  }
}

// PEFT raises on these too; which modules it would have meant is not defined.
function checkLayers(data: z.infer<typeof AdapterJson>, about: string, problems: Problems): void {
  const hasLayers = listOf(data.layers_to_transform).length > 0
  const hasPattern = listOf(data.layers_pattern).length > 0
  const wrong =
    typeof data.target_modules === 'string' && (hasLayers || hasPattern)
      ? 'layers_to_transform and layers_pattern go with a list of target_modules, not with a pattern'
      : hasPattern && !hasLayers
        ? 'layers_pattern says nothing without layers_to_transform'
        : undefined
  if (wrong !== undefined) problems.add('config-invalid', `${about}: ${CONFIG_FILE}: ${wrong}; fix the config`)
}

function listOf<T>(value: readonly T[] | T | null | undefined): readonly T[] {
  if (value === null || value === undefined) return []
  return Array.isArray(value) ? value : [value as T]
}

function tokensOf(value: z.infer<typeof AdapterJson>['trainable_token_indices']): AdapterConfig['tokens'] {
  if (value === null || value === undefined) return undefined
  return Array.isArray(value) ? value : new Map(Object.entries(value))
}
