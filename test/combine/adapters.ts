// Adapters for the tests of combine: those of the oracle, and small random ones.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { CombineResult } from '../../compiler/combine/combine.ts'
import type { CombineInput, LoraModule } from '../../compiler/combine/input.ts'
import { stream } from '../../compiler/combine/threefry.ts'
import { readHeader } from '../../compiler/safetensors/read.ts'
import { type FloatTensorSource, readFloats } from '../../compiler/safetensors/stream.ts'
import { openFile } from '../../runtime/disk.ts'

export const ORACLE = join(import.meta.dirname, '../parity/oracle/combine')

export interface OracleInfo {
  readonly weights: Readonly<Record<string, number>>
  readonly density: number
  readonly seed: number
  readonly epsilon: number
  readonly gamma: number
  readonly cases: Readonly<
    Record<
      string,
      { adapters: string[]; svd_rank?: number; density?: number; majority_sign_method?: 'total' | 'frequency' }
    >
  >
}

export function readInfo(name: string): OracleInfo {
  return JSON.parse(readFileSync(join(ORACLE, `${name}.json`), 'utf8'))
}

export async function readTensors(
  path: string,
): Promise<Map<string, { shape: readonly number[]; data: Float32Array }>> {
  const file = await openFile(path)
  const { tensors } = await readHeader(file)
  const entries = [...tensors.values()].map(
    async (tensor) =>
      [tensor.name, { shape: tensor.shape, data: await readFloats(tensor as FloatTensorSource) }] as const,
  )
  const result = new Map(await Promise.all(entries))
  await file.close()
  return result
}

/** An adapter of the oracle, with PEFT's rules for literal patterns written out again. */
export async function readInput(name: string, weight: number, folder = join(ORACLE, name)): Promise<CombineInput> {
  const config = JSON.parse(readFileSync(join(folder, 'adapter_config.json'), 'utf8'))
  const tensors = await readTensors(join(folder, 'adapter_model.safetensors'))
  const modules = new Map<string, LoraModule>()
  for (const [key, A] of tensors) {
    const module = /^base_model\.model\.(.+)\.lora_A\.weight$/.exec(key)?.[1]
    const B = module && tensors.get(`base_model.model.${module}.lora_B.weight`)
    if (!module || !B) continue
    const r = config.rank_pattern[module] ?? config.r
    const alpha = config.alpha_pattern[module] ?? config.lora_alpha
    const [out = 0] = B.shape
    modules.set(module, { A: A.data, B: B.data, r, in: A.shape[1] ?? 0, out, scaling: alpha / r })
  }
  return { name, weight, modules }
}

export async function oracleInputs(names: readonly string[]): Promise<CombineInput[]> {
  const { weights } = readInfo('algebra')
  return Promise.all(names.map((name) => readInput(name, weights[name] ?? 0)))
}

/** Uniform entries in [−½, ½). */
export function randomValues(count: number, name: string): Float32Array {
  return Float32Array.from(stream(7, name)(count), (value) => value - 0.5)
}

export function randomModule(name: string, r: number, columns: number, out: number, scaling = 2.4): LoraModule {
  const A = randomValues(r * columns, `${name}/A`)
  return { A, B: randomValues(out * r, `${name}/B`), r, in: columns, out, scaling }
}

/** One module, "m". */
export function randomInput(name: string, weight: number, r: number, columns = 23, out = 17): CombineInput {
  return { name, weight, modules: new Map([['m', randomModule(name, r, columns, out)]]) }
}

/** scale·B·A in double, row-major [out, in]. */
export function product({ A, B, r, in: columns, out }: Omit<LoraModule, 'scaling'>, scale = 1): Float64Array {
  const result = new Float64Array(out * columns)
  for (let i = 0; i < out; i += 1) {
    for (let k = 0; k < r; k += 1) {
      for (let j = 0; j < columns; j += 1) {
        result[i * columns + j]! += scale * B[i * r + k]! * A[k * columns + j]!
      }
    }
  }
  return result
}

/** Σ wᵢ·sᵢ·Bᵢ·Aᵢ of one module, the definition written out. */
export function weightedSum(inputs: readonly CombineInput[], module: string): Float64Array {
  const sums = inputs.flatMap(({ weight, modules }) => {
    const found = modules.get(module)
    return found === undefined ? [] : [product(found, weight * found.scaling)]
  })
  return sums.reduce((total, next) => total.map((value, i) => value + next[i]!))
}

export function deltaOf(result: CombineResult, module: string): Float64Array {
  return product(result.modules.get(module)!)
}

export function norm(values: ArrayLike<number>): number {
  return Math.sqrt(Array.from(values).reduce((sum, value) => sum + value * value, 0))
}

export function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return norm(Float64Array.from(a, (value, i) => value - b[i]!))
}

export function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  return Array.from(a).reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0)
}
