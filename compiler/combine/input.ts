// What is combined: adapters as factors, checked before any arithmetic.
import { compareCodePoints } from '../canonical-json.ts'
import { Problems, quote } from '../errors.ts'
import { firstNonFinite } from '../safetensors/decode.ts'

/** One linear's low-rank pair, in PEFT's orientation: ΔW = scaling·B·A. */
export interface LoraModule {
  /** Row-major [r, in]. */
  readonly A: Float32Array
  /** Row-major [out, r]. */
  readonly B: Float32Array
  readonly r: number
  readonly in: number
  readonly out: number
  /** lora_alpha / r, or lora_alpha / √r with rsLoRA; not in `A` or `B`. */
  readonly scaling: number
}

export interface CombineInput {
  readonly name: string
  readonly weight: number
  /** By path in the base, e.g. `model.layers.0.self_attn.q_proj`. */
  readonly modules: ReadonlyMap<string, LoraModule>
}

/** One adapter's share in one module. */
export interface Part extends LoraModule {
  readonly adapter: string
  readonly weight: number
}

/**
 * Per module, in code point order, the adapters that have it, by name: an order of summation that does not depend on
 * the caller's. Throws one `InputError` with every problem of the inputs.
 */
export function partsByModule(inputs: readonly CombineInput[]): Map<string, [Part, ...Part[]]> {
  const problems = new Problems()
  if (inputs.length === 0) problems.add('adapter-name', 'no adapters are given; combine needs at least one')
  const seen = new Set<string>()
  const parts = new Map<string, [Part, ...Part[]]>()
  for (const { name, weight, modules } of [...inputs].sort((a, b) => compareCodePoints(a.name, b.name))) {
    const about = `adapter ${quote(name)}`
    if (seen.has(name)) problems.add('adapter-name', `${about} is given twice; give each its own name`)
    seen.add(name)
    if (!Number.isFinite(weight) || weight === 0) {
      problems.add('adapter-weight', `${about}: the weight is ${weight}; give a finite one that is not 0`)
    }
    if (modules.size === 0) problems.add('tensor-missing', `${about} has no modules; re-export it`)
    for (const [path, module] of modules) {
      checkModule(module, `${about}: ${path}`, problems)
      const part: Part = { ...module, adapter: name, weight }
      const others = parts.get(path)
      if (others === undefined) parts.set(path, [part])
      else {
        checkSameLinear(others[0], part, path, problems)
        others.push(part)
      }
    }
  }
  problems.throwIfAny()
  return new Map([...parts].sort(([a], [b]) => compareCodePoints(a, b)))
}

function checkModule(module: LoraModule, about: string, problems: Problems): void {
  const { A, B, r, scaling } = module
  const sizes = [r, module.in, module.out]
  if (!sizes.every((size) => Number.isSafeInteger(size) && size > 0)) {
    problems.add(
      'tensor-shape',
      `${about} has r=${r}, in=${module.in}, out=${module.out}; each is a whole number above 0`,
    )
    return
  }
  if (A.length !== r * module.in || B.length !== module.out * r) {
    problems.add(
      'tensor-shape',
      `${about} has ${A.length} values in lora_A and ${B.length} in lora_B, but [${r}, ${module.in}] and ` +
        `[${module.out}, ${r}] take ${r * module.in} and ${module.out * r}`,
    )
    return
  }
  if (!Number.isFinite(scaling)) problems.add('adapter-option', `${about} has the scaling ${scaling}; fix lora_alpha`)
  for (const [factor, values] of [
    ['lora_A', A],
    ['lora_B', B],
  ] as const) {
    if (firstNonFinite(values) < 0) continue
    problems.add('tensor-not-finite', `${about}.${factor} holds NaN or infinity; the training diverged`)
  }
}

function checkSameLinear(first: Part, part: Part, path: string, problems: Problems): void {
  if (first.in === part.in && first.out === part.out) return
  problems.add(
    'adapter-base',
    `${path} is ${first.in} → ${first.out} in adapter ${quote(first.adapter)} but ${part.in} → ${part.out} in ` +
      `adapter ${quote(part.adapter)}; they were trained for different bases`,
  )
}
