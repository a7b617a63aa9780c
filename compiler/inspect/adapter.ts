// An adapter's folder, as any tool saved it, without its base: what it says of itself, module by module.
import { CONFIG_FILE, readAdapterConfig } from '../adapter/config.ts'
import { isKohya } from '../adapter/kohya.ts'
import { ModulePatterns } from '../adapter/patterns.ts'
import { Budget, BudgetError } from '../adapter/regex/budget.ts'
import { type ModuleTensors, nameTensors } from '../adapter/tensor-names.ts'
import { MLX_FILE, openWeights, type WeightsFile } from '../adapter/weights-file.ts'
import { InputError, Problems } from '../errors.ts'
import type { Folder } from '../host.ts'
import type { Inspection, Row } from './inspection.ts'
import { rowsOf, totals } from './safetensors.ts'

export async function inspectAdapter(folder: Folder): Promise<Inspection> {
  const about = folder.name
  const weights = await openWeights(folder, about)
  const tensors = [...weights.tensors.values()]
  const dialect = weights.path === MLX_FILE ? 'MLX' : isKohya(weights.tensors) ? 'kohya' : 'PEFT'
  const problems = new Problems()
  const described = await problems.collect(() =>
    dialect === 'PEFT' ? describe(folder, weights, about, problems) : { facts: {}, modules: [] },
  )
  return {
    kind: 'adapter',
    name: folder.name,
    facts: { dialect, file: weights.path, ...described?.facts, ...totals(tensors) },
    tables: { modules: described?.modules ?? [], tensors: rowsOf(tensors) },
    notes: messagesOf(problems),
  }
}

async function describe(
  folder: Folder,
  { tensors }: WeightsFile,
  about: string,
  problems: Problems,
): Promise<{ facts: Row; modules: Row[] }> {
  const config = await readAdapterConfig(folder, about, problems)
  const { modules, whole } = nameTensors(tensors, about, problems)
  const budget = new Budget()
  const ranks = new ModulePatterns(config.rankPattern, 'rank_pattern', about, problems, budget)
  const alphas = new ModulePatterns(config.alphaPattern, 'alpha_pattern', about, problems, budget)
  const scaling = (module: string, r: number) => {
    const alpha = alphas.valueFor(module, config.loraAlpha)
    return { alpha, scaling: alpha / (config.useRslora ? Math.sqrt(r) : r) }
  }
  const row = ([module, { A, B, isEmbedding, ...others }]: [string, ModuleTensors]): Row => {
    const r = ranks.valueFor(module, config.r)
    return {
      module,
      r,
      ...scaling(module, r),
      A: A?.shape ?? null,
      B: B?.shape ?? null,
      dtype: A?.dtype ?? B?.dtype ?? null,
      also: [...(isEmbedding ? ['embedding'] : []), ...Object.keys(others)],
    }
  }
  const { targetModules, modulesToSave } = config
  const facts: Row = {
    r: config.r,
    lora_alpha: config.loraAlpha,
    use_rslora: String(config.useRslora),
    use_dora: String(config.useDora),
    bias: config.bias,
    target_modules: typeof targetModules === 'string' ? targetModules : (targetModules ?? null),
    modules_to_save: modulesToSave,
    whole_tensors: [...whole.keys()],
  }
  try {
    return { facts, modules: [...modules].map(row) }
  } catch (error) {
    if (!(error instanceof BudgetError)) throw error
    problems.add('adapter-pattern', `${about}: the patterns of ${CONFIG_FILE} take ${error.message}`)
    return { facts, modules: [] }
  }
}

/** What a compile would say against it, as remarks. */
export function messagesOf(problems: Problems): string[] {
  try {
    problems.throwIfAny()
    return []
  } catch (error) {
    if (!(error instanceof InputError)) throw error
    return error.problems.map(({ message }) => message)
  }
}
