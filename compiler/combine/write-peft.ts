// The combined adapter as a folder that PEFT loads, and sidepath too.
import { canonicalJson, compareCodePoints } from '../canonical-json.ts'
import type { OutFolder } from '../host.ts'
import { encodeSafetensors, type FloatTensor } from '../safetensors/write.ts'
import type { Factors } from './combined.ts'
import type { Recipe } from './options.ts'
import type { Ranks } from './ranks.ts'

const RECIPE_METADATA = 'sidepath.recipe'

export interface PeftAdapter extends Ranks {
  /** By path. The delta of each is B·A: the scaling is 1. */
  readonly modules: ReadonlyMap<string, Factors>
  /** How it was made. */
  readonly recipe:
    | Recipe
    | { readonly method: 'extract'; readonly rank: number }
    | { readonly method: 'compress'; readonly to: number; readonly of: 'rank' | 'energy' }
}

export interface PeftIdentity {
  /** As the adapters that went in call their base; `null` where they do not say. */
  readonly baseModelNameOrPath: string | null
  /** PEFT's name for the kind of model, e.g. `CAUSAL_LM`. */
  readonly taskType: string | null
  /** By name, as given; recorded beside the method. */
  readonly weights: Readonly<Record<string, number>>
}

/**
 * Writes adapter_config.json and adapter_model.safetensors (fp32, keys `base_model.model.<module>.lora_A.weight`
 * [r, in] and `.lora_B.weight` [out, r]). r = lora_alpha, for every module, so that the scaling is 1.
 */
export async function writePeft(result: PeftAdapter, identity: PeftIdentity, out: OutFolder): Promise<void> {
  await writeFile(out, 'adapter_config.json', new TextEncoder().encode(adapterConfig(result, identity)))
  await writeFile(out, 'adapter_model.safetensors', adapterModel(result, identity))
}

function adapterConfig({ modules, r, alpha, rankPattern }: PeftAdapter, identity: PeftIdentity): string {
  const pattern = Object.fromEntries(rankPattern)
  const config = {
    base_model_name_or_path: identity.baseModelNameOrPath,
    bias: 'none',
    fan_in_fan_out: false,
    inference_mode: true,
    // The weights come from the file; PEFT's default would draw them first.
    init_lora_weights: true,
    lora_alpha: alpha,
    lora_dropout: 0,
    alpha_pattern: pattern,
    peft_type: 'LORA',
    r,
    rank_pattern: pattern,
    // Whole paths: a last name such as "q_proj" would also target the layers that no adapter has.
    target_modules: [...modules.keys()].sort(compareCodePoints),
    task_type: identity.taskType,
    use_rslora: false,
  }
  return `${JSON.stringify(config, null, 2)}\n`
}

function adapterModel({ modules, recipe }: PeftAdapter, { weights }: PeftIdentity): Uint8Array<ArrayBuffer> {
  const tensors = new Map<string, FloatTensor>()
  for (const [module, { A, B, r, in: columns, out: rows }] of modules) {
    tensors.set(`base_model.model.${module}.lora_A.weight`, { shape: [r, columns], data: A })
    tensors.set(`base_model.model.${module}.lora_B.weight`, { shape: [rows, r], data: B })
  }
  return encodeSafetensors(tensors, { format: 'pt', [RECIPE_METADATA]: canonicalJson({ ...recipe, weights }) })
}

async function writeFile(out: OutFolder, name: string, bytes: Uint8Array): Promise<void> {
  const file = await out.create(name)
  try {
    await file.write(bytes)
  } finally {
    await file.close()
  }
}
