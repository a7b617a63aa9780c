// The dialect of kohya's scripts and of diffusers: lora_up, lora_down and one alpha per module, no config. Modules are
// named by paths, or by paths with "_" for "."; the base tells which, and where two modules would do it is refused.
import { type Problems, quote } from '../errors.ts'
import type { StoredTensor } from '../safetensors/read.ts'
import { isFloatTensor } from '../safetensors/stream.ts'
import type { BaseTensors, Change } from './change.ts'
import { locate } from './locate.ts'
import { readLowRank } from './low-rank.ts'
import type { DialectChanges } from './peft.ts'
import { type Dialect, type Reading, readFinite } from './reading.ts'
import { MAX_NAME_CHARS, type ModuleTensors } from './tensor-names.ts'
import type { WeightsFile } from './weights-file.ts'

const KEY = /^(.+)\.(?:(lora_up|lora_down)\.weight|(alpha))$/
/** Which of a pipeline's models an adapter is for; the base is one of them. */
const PREFIX = /^lora_(?:te[12]?|text_encoder(?:_2)?|unet|transformer|prior_unet|prior_te)_/

export function isKohya(tensors: ReadonlyMap<string, StoredTensor>): boolean {
  for (const name of tensors.keys()) if (/\.lora_(?:up|down)\.weight$/.test(name)) return true
  return false
}

export async function readKohya({ tensors }: WeightsFile, reading: Omit<Reading, 'location'>): Promise<DialectChanges> {
  const { about, problems, base } = reading
  const named = nameTensors(tensors, about, problems)
  const modules = resolveModules(named, base, about, problems)
  const names = [...modules.keys()].map((module) => `${module}.weight`)
  const located: Reading = { ...reading, location: locate(names, base, about, problems) }
  const dialect = dialectOf(located)
  const changes: Change[] = []
  for (const [module, parts] of modules) changes.push(...(await readLowRank(module, parts, dialect, located)))
  return { changes, loraAlpha: 0, useRslora: false }
}

function nameTensors(
  tensors: ReadonlyMap<string, StoredTensor>,
  about: string,
  problems: Problems,
): Map<string, ModuleTensors> {
  const modules = new Map<string, ModuleTensors>()
  for (const tensor of tensors.values()) {
    const [, path, factor, alpha] = (tensor.name.length <= MAX_NAME_CHARS && KEY.exec(tensor.name)) || []
    if (path === undefined || !isFloatTensor(tensor)) {
      problems.add(
        path === undefined ? 'tensor-unknown' : 'tensor-dtype',
        `${about}: tensor ${quote(tensor.name)} (${tensor.dtype}) is no lora_up, lora_down or alpha in F32, F16 or BF16; ` +
          'LoHa, LoKr, LoCon with lora_mid and dora_scale are not read, convert the adapter to PEFT',
      )
      continue
    }
    const module = modules.get(path) ?? {}
    module[alpha !== undefined ? 'alpha' : factor === 'lora_up' ? 'B' : 'A'] = tensor
    modules.set(path, module)
  }
  return modules
}

/** Paths for names in which "_" stands for ".". */
function resolveModules(
  named: ReadonlyMap<string, ModuleTensors>,
  base: BaseTensors,
  about: string,
  problems: Problems,
): Map<string, ModuleTensors> {
  const mangled = new Map<string, string[]>()
  for (const name of base.keys()) {
    if (!name.endsWith('.weight')) continue
    const module = name.slice(0, -'.weight'.length)
    const key = module.replaceAll('.', '_')
    mangled.set(key, [...(mangled.get(key) ?? []), module])
  }
  const modules = new Map<string, ModuleTensors>()
  for (const [name, parts] of named) {
    const isMangled = !name.includes('.')
    const candidates = isMangled ? (mangled.get(name.replace(PREFIX, '')) ?? []) : [name]
    const [module] = candidates
    if (module !== undefined && candidates.length === 1 && !modules.has(module)) modules.set(module, parts)
    else {
      problems.add(
        'adapter-base',
        `${about}: ${quote(name)} could be ${candidates.length === 0 ? 'no module' : candidates.map(quote).join(' or ')} of the ` +
          'base; convert the adapter to PEFT, which spells paths out',
      )
    }
  }
  return modules
}

function dialectOf(reading: Reading): Dialect {
  return {
    rankOf: () => undefined,
    // Without an alpha the factors are meant as they are.
    async scalingOf(module, r, { alpha }) {
      if (alpha === undefined) return 1
      const values = await readFinite(alpha, `${module}.alpha`, reading)
      const [value] = values
      if (value !== undefined && value !== 0 && values.length === 1) return value / r
      reading.problems.add(
        'adapter-option',
        `${reading.about}: ${module}.alpha is [${[...values.slice(0, 3)]}]; it is one number, and 0 switches the module off`,
      )
      return 0
    },
    storesTransposed: false,
    namesEmbeddingsAlike: false,
    useDora: false,
    loraBias: false,
    fanInFanOut: false,
  }
}
