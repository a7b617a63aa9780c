// What was trained as a folder that PEFT loads, and sidepath too: adapter_config.json and adapter_model.safetensors.
import { transpose } from '../../compiler/adapter/low-rank.ts'
import { compareCodePoints } from '../../compiler/canonical-json.ts'
import type { Decoder } from '../../compiler/checkpoint/decoder.ts'
import { layoutOf } from '../../compiler/checkpoint/families/families.ts'
import { layerLinears } from '../../compiler/checkpoint/names.ts'
import { encodeSafetensors, type FloatTensor } from '../../compiler/safetensors/write.ts'
import type { Factors } from './init.ts'
import type { LoraOptions } from './select.ts'
import type { LoraModuleSpec, LoraSpec } from './spec.ts'

export interface TrainedModule extends Factors {
  /** DoRA */
  readonly magnitude?: Float32Array
  /** PiSSA: what A and B began as. */
  readonly start?: Factors
}

export interface AdapterFiles {
  readonly config: Uint8Array<ArrayBuffer>
  readonly model: Uint8Array<ArrayBuffer>
}

/**
 * With PiSSA the base is as published: s·(B·A − B₀·A₀) = s·[B, −B₀]·[A; A₀], an adapter of twice the rank. Its alpha is
 * twice as large, or √2 times with rsLoRA, so that s stays what it was.
 */
export function encodeAdapterFolder(
  decoder: Decoder,
  options: LoraOptions,
  spec: LoraSpec,
  trained: ReadonlyMap<string, TrainedModule>,
  baseName: string | null,
): AdapterFiles {
  const tensors = new Map<string, FloatTensor>()
  for (const module of spec.modules) {
    const { linear } = module
    const { A, B, r, magnitude } = widened(module, trained.get(linear.module))
    const prefix = `base_model.model.${linear.module}`
    tensors.set(`${prefix}.lora_A.weight`, { shape: [r, linear.in], data: A })
    tensors.set(`${prefix}.lora_B.weight`, { shape: [linear.out, r], data: B })
    if (magnitude !== undefined) {
      tensors.set(`${prefix}.lora_magnitude_vector`, { shape: [linear.out], data: magnitude })
    }
  }
  const config = JSON.stringify(configOf(decoder, options, spec, baseName), null, 2)
  return { config: new TextEncoder().encode(`${config}\n`), model: encodeSafetensors(tensors, { format: 'pt' }) }
}

/** As PEFT stores them: A [r, in], B [out, r]. */
function widened({ linear, r }: LoraModuleSpec, trained: TrainedModule | undefined) {
  if (trained === undefined) throw new Error(`sidepath bug: ${linear.module} was not trained`)
  const { in: inSize, out } = linear
  const A = transpose(trained.A, inSize, r)
  const { start, magnitude } = trained
  if (start === undefined) {
    return { A, B: transpose(trained.B, r, out), r, ...(magnitude && { magnitude }) }
  }
  const wideA = new Float32Array(2 * A.length)
  wideA.set(A)
  wideA.set(transpose(start.A, inSize, r), A.length)
  const wideB = new Float32Array(2 * r * out)
  wideB.set(trained.B)
  wideB.set(
    start.B.map((value) => -value),
    r * out,
  )
  return { A: wideA, B: transpose(wideB, 2 * r, out), r: 2 * r }
}

function configOf(decoder: Decoder, options: LoraOptions, spec: LoraSpec, baseName: string | null) {
  const isPissa = spec.init === 'pissa'
  const ranks = isPissa ? 2 : 1
  const alphas = isPissa ? (options.useRslora ? Math.SQRT2 : 2) : 1
  const times = (pattern: Readonly<Record<string, number>>, factor: number) =>
    Object.fromEntries(Object.entries(pattern).map(([key, value]) => [key, value * factor]))
  return {
    alpha_pattern: times(options.alphaPattern, alphas),
    base_model_name_or_path: baseName,
    bias: 'none',
    fan_in_fan_out: layoutOf(decoder.architecture).storesTransposed,
    inference_mode: true,
    init_lora_weights: true,
    lora_alpha: options.alpha * alphas,
    lora_dropout: options.dropout,
    peft_type: 'LORA',
    r: options.r * ranks,
    rank_pattern: times(options.rankPattern, ranks),
    target_modules: targetsOf(decoder, spec),
    task_type: 'CAUSAL_LM',
    use_dora: options.useDora,
    use_rslora: options.useRslora,
  }
}

/** Last names where they say exactly what was trained; whole paths where only some layers were. */
function targetsOf({ architecture }: Decoder, { modules }: LoraSpec): string[] {
  const chosen = modules.map(({ linear }) => linear.module)
  const lastOf = (module: string) => module.split('.').at(-1) as string
  const names = new Set(chosen.map(lastOf))
  const covered = layerLinears(architecture).filter(({ module }) => names.has(lastOf(module)))
  return [...(covered.length === chosen.length ? names : chosen)].sort(compareCodePoints)
}
