// PEFT's own format → changes.
import { inputError } from '../errors.ts'
import type { Folder } from '../host.ts'
import type { Change } from './change.ts'
import { checkTargets } from './check-targets.ts'
import { type AdapterConfig, readAdapterConfig } from './config.ts'
import { locate } from './locate.ts'
import { readLowRank } from './low-rank.ts'
import { ModulePatterns } from './patterns.ts'
import type { Dialect, Reading } from './reading.ts'
import { Budget, BudgetError } from './regex/budget.ts'
import { resolveTargets } from './targets.ts'
import { type AdapterTensors, nameTensors } from './tensor-names.ts'
import { readTokenRows } from './token-rows.ts'
import type { WeightsFile } from './weights-file.ts'
import { readWholeTensors } from './whole-tensors.ts'

export interface DialectChanges {
  readonly changes: readonly Change[]
  readonly loraAlpha: number
  readonly useRslora: boolean
}

/** `weights`: `undefined` where they cannot be read, so that the config's problems are found all the same. */
export async function readPeft(
  folder: Folder,
  weights: WeightsFile | undefined,
  reading: Omit<Reading, 'location'>,
): Promise<DialectChanges | undefined> {
  const { about, problems, base } = reading
  const config = await problems.collect(() => readAdapterConfig(folder, about, problems))
  if (config === undefined || weights === undefined) return undefined
  const tensors = nameTensors(weights.tensors, about, problems)
  const location = locate(namesIn(tensors), base, about, problems)
  try {
    const changes = await readTensors(tensors, config, { ...reading, location })
    return { changes, loraAlpha: config.loraAlpha, useRslora: config.useRslora }
  } catch (error) {
    if (!(error instanceof BudgetError)) throw error
    throw inputError('adapter-pattern', `${about}: its patterns take ${error.message}; write the names of modules out`)
  }
}

async function readTensors(tensors: AdapterTensors, config: AdapterConfig, reading: Reading): Promise<Change[]> {
  const { about, problems } = reading
  const budget = new Budget()
  const dialect = dialectOf(config, reading, budget)
  const targets = resolveTargets(config, about, problems, budget)
  const adapted = new Set<string>()
  const changes: Change[] = []
  for (const [module, parts] of tensors.modules) {
    if (parts.A === undefined && parts.B === undefined && parts.bias === undefined && parts.magnitude === undefined)
      continue
    adapted.add(module)
    changes.push(...(await readLowRank(module, parts, dialect, reading)))
  }
  checkTargets(adapted, targets, reading)
  changes.push(...(await readTokenRows(tensors.modules, config, reading)))
  changes.push(...(await readWholeTensors(tensors, config, reading)))
  return changes
}

/** Names that the base must have, to tell how it spells them: the weights under LoRA, or all where there is none. */
function namesIn({ modules, whole }: AdapterTensors): string[] {
  const names = [...modules.keys()].map((module) => `${module}.weight`)
  return names.length > 0 ? names : [...whole.keys()]
}

function dialectOf(config: AdapterConfig, { about, problems }: Reading, budget: Budget): Dialect {
  const ranks = new ModulePatterns(config.rankPattern, 'rank_pattern', about, problems, budget)
  const alphas = new ModulePatterns(config.alphaPattern, 'alpha_pattern', about, problems, budget)
  return {
    rankOf: (module) => ranks.valueFor(module, config.r),
    // s = lora_alpha / r, or lora_alpha / √r with rsLoRA.
    scalingOf: (module, r) => alphas.valueFor(module, config.loraAlpha) / (config.useRslora ? Math.sqrt(r) : r),
    storesTransposed: false,
    namesEmbeddingsAlike: false,
    useDora: config.useDora,
    loraBias: config.loraBias,
    fanInFanOut: config.fanInFanOut,
  }
}
