// The keys of adapter_config.json: which values leave the algebra as we compute it. The list is that of LoraConfig in
// PEFT 0.21; a key that is not on it is fine at "not used" and refused by name otherwise.
import { type Problems, quote } from '../errors.ts'
import type { JsonObject } from '../strict-json.ts'

/** Initialisations that leave the base as published; what comes out is a plain LoRA. PEFT compares some without case. */
const PLAIN_INITS = ['gaussian', 'eva', 'orthogonal', 'mica']

const anything = () => true
const isBoolean = (value: unknown) => typeof value === 'boolean'
const isOneOf =
  (...values: unknown[]) =>
  (value: unknown) =>
    values.includes(value)

const UNDERSTOOD: Readonly<Record<string, (value: unknown) => boolean>> = {
  peft_type: isOneOf('LORA'),
  // The schema in config.ts has these.
  r: anything,
  lora_alpha: anything,
  use_rslora: anything,
  rank_pattern: anything,
  alpha_pattern: anything,
  target_modules: anything,
  exclude_modules: anything,
  modules_to_save: anything,
  layers_to_transform: anything,
  layers_pattern: anything,
  trainable_token_indices: anything,
  bias: anything,
  lora_bias: anything,
  use_dora: anything,
  fan_in_fan_out: anything,
  init_lora_weights: (value) =>
    isBoolean(value) || (typeof value === 'string' && PLAIN_INITS.includes(value.toLowerCase())),
  // How the factors were first filled; whether the base changed with them is said by init_lora_weights alone, which
  // PEFT sets to true when it converts such an adapter back.
  loftq_config: anything,
  eva_config: anything,
  corda_config: anything,
  lora_ga_config: anything,
  // Ties what is trained; what came of it is in the tensors.
  ensure_weight_tying: isBoolean,
  // Of training, of loading, or for the reader.
  lora_dropout: anything,
  task_type: anything,
  inference_mode: anything,
  base_model_name_or_path: anything,
  revision: anything,
  peft_version: anything,
  auto_mapping: anything,
  runtime_config: anything,
  // Defaults that are not empty; they act only together with a key that is refused.
  megatron_core: isOneOf('megatron.core'),
  qalora_group_size: isOneOf(16),
}

const CONVERT =
  'convert it with PEFT, save_pretrained(path_initial_model_for_weight_conversion=…); or save the changed base, give ' +
  'that as the base and set init_lora_weights to true'

/** What to do about the refusals that people meet. */
const HELP: Readonly<Record<string, string>> = {
  layer_replication: 'it changes the number of layers of the base; save the replicated model and train on that',
  alora_invocation_tokens: 'aLoRA acts from its invocation tokens on, so no weights stand for it; train without it',
  target_parameters: 'LoRA on parameters of stacked experts is not read; merge it with PEFT first',
  megatron_config: 'LoRA of parallel linears is not read; export it as a plain LoRA',
  use_bdlora: 'block-diagonal factors are stored by blocks, which are not read; merge it with PEFT first',
  use_qalora: 'QA-LoRA pools the inputs of a quantised base; merge it with the tool that trained it',
  kasa_config: 'KaSA truncates the base; merge it with PEFT first',
  velora_config: 'VeLoRA stores the state of its training with the adapter; merge it with PEFT first',
  monteclora_config: 'MonteCLoRA samples its weights; merge it with PEFT first',
  arrow_config: 'Arrow routes between adapters token by token, so no weights stand for it',
}

const INIT_HELP: readonly (readonly [prefix: string, help: string])[] = [
  ['pissa', `PiSSA moves part of the base into the adapter; ${CONVERT}`],
  ['olora', `OLoRA moves part of the base into the adapter; ${CONVERT}`],
  ['corda', `CorDA moves part of the base into the adapter; ${CONVERT}`],
  ['lora_ga', `LoRA-GA moves part of the base into the adapter; ${CONVERT}`],
  ['loftq', 'LoftQ quantises the base that it trains on; save that base, give it as the base and set the key to true'],
]

/** Adds to `problems` each key whose value cannot be honoured. */
export function checkOptions(json: JsonObject, about: string, problems: Problems): void {
  for (const [key, value] of Object.entries(json)) {
    const isHonoured = Object.hasOwn(UNDERSTOOD, key) ? UNDERSTOOD[key] : isNotUsed
    if (isHonoured?.(value)) continue
    problems.add(
      'adapter-option',
      `${about} has ${quote(key)} = ${quote(JSON.stringify(value))}: ${helpFor(key, value)}`,
    )
  }
}

function helpFor(key: string, value: unknown): string {
  const init = key === 'init_lora_weights' ? String(value).toLowerCase() : undefined
  const help =
    INIT_HELP.find(([prefix]) => init?.startsWith(prefix))?.[1] ?? (Object.hasOwn(HELP, key) ? HELP[key] : '')
  return help || 'it is not understood, and ignoring it could change the answers'
}

/** null, false, and empty lists, objects and strings are how PEFT spells "not used". */
function isNotUsed(value: unknown): boolean {
  if (typeof value === 'object' && value !== null) return Object.keys(value).length === 0
  return value === null || value === false || value === ''
}
