// Several compiled adapters → the factors of one: what a stack feeds, and what a mix such as `a*0.7 + b*0.3` puts in a slot.
import { compareCodePoints } from './canonical-json.ts'
import { Problems, quote } from './errors.ts'
import type { CompiledModule } from './read-adapter.ts'
import { firstNonFinite } from './safetensors/decode.ts'

export interface MixPart {
  readonly name: string
  /** 1 where absent; finite and not 0. */
  readonly weight?: number
  /** As `readAdapter` gives them: A [in, r], B [r, out], the scaling in B. */
  readonly modules: ReadonlyMap<string, CompiledModule>
}

export interface MixOptions {
  /** The rank of the caller's bank. */
  readonly maxRank?: number
}

/**
 * Σᵢ wᵢ·Aᵢ·Bᵢ = [A₁ … Aₙ]·[w₁B₁; …; wₙBₙ]: the factors side by side, of rank Σ rᵢ, exact but for the rounding of wᵢ·Bᵢ
 * to fp32 (relative 2⁻²⁴ an entry; none where wᵢ is 1). Parts are taken by name, so their order is irrelevant. A module
 * that a part lacks adds nothing. Throws `InputError` with every problem: names given twice, weights, sizes that differ,
 * a rank above `maxRank`, an overflow.
 */
export function mixAdapters(parts: readonly MixPart[], options: MixOptions = {}): Map<string, CompiledModule> {
  const problems = new Problems()
  const sorted = [...parts].sort((a, b) => compareCodePoints(a.name, b.name))
  checkParts(sorted, problems)
  problems.throwIfAny()
  const byModule = new Map<string, { name: string; weight: number; module: CompiledModule }[]>()
  for (const { name, weight = 1, modules } of sorted) {
    for (const [path, module] of modules) {
      const list = byModule.get(path) ?? []
      byModule.set(path, list)
      list.push({ name, weight, module })
    }
  }
  const mixed = new Map<string, CompiledModule>()
  for (const [path, list] of byModule) {
    const r = list.reduce((sum, { module }) => sum + module.r, 0)
    if (options.maxRank !== undefined && r > options.maxRank) {
      const ranks = list.map(({ name, module }) => `${quote(name)} ${module.r}`).join(', ')
      problems.add(
        'adapter-rank',
        `${path}: the ranks add up to ${r} (${ranks}); the bank holds ranks up to ${options.maxRank}, start it with more`,
      )
    } else if (sameSizes(path, list, problems)) {
      const module = concatenate(list, r)
      if (firstNonFinite(module.B) >= 0) {
        problems.add('tensor-not-finite', `${path}: lora_B times its weight overflows fp32; lower the weights`)
      }
      mixed.set(path, module)
    }
  }
  problems.throwIfAny()
  return mixed
}

function checkParts(parts: readonly MixPart[], problems: Problems): void {
  if (parts.length === 0) problems.add('adapter-name', 'a mix needs at least one adapter')
  for (const [index, { name, weight = 1 }] of parts.entries()) {
    if (parts[index - 1]?.name === name) {
      problems.add('adapter-name', `adapter ${quote(name)} is given twice; add up its weights`)
    }
    if (!Number.isFinite(weight) || weight === 0) {
      problems.add('adapter-weight', `adapter ${quote(name)}: the weight is ${weight}; give a finite one that is not 0`)
    }
  }
}

const inOf = ({ A, r }: CompiledModule) => A.length / r
const outOf = ({ B, r }: CompiledModule) => B.length / r

function sameSizes(
  path: string,
  list: readonly { readonly name: string; readonly module: CompiledModule }[],
  problems: Problems,
): boolean {
  const sizes = list.map(({ module }) => `${inOf(module)} → ${outOf(module)}`)
  if (new Set(sizes).size === 1) return true
  const found = list.map(({ name }, index) => `${quote(name)} ${sizes[index]}`).join(', ')
  problems.add('adapter-base', `${path} has different sizes (${found}); the adapters were compiled for different bases`)
  return false
}

function concatenate(
  list: readonly { readonly weight: number; readonly module: CompiledModule }[],
  r: number,
): CompiledModule {
  const inSize = list.map(({ module }) => inOf(module))[0] ?? 0
  const out = list.map(({ module }) => outOf(module))[0] ?? 0
  const A = new Float32Array(inSize * r)
  const B = new Float32Array(r * out)
  let start = 0
  for (const { weight, module } of list) {
    for (let i = 0; i < inSize; i += 1) A.set(module.A.subarray(i * module.r, (i + 1) * module.r), i * r + start)
    const offset = start * out
    for (let i = 0; i < module.B.length; i += 1) B[offset + i] = weight * (module.B[i] as number)
    start += module.r
  }
  return { r, A, B }
}
