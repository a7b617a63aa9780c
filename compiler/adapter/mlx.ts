// The dialect of mlx-lm: adapters.safetensors with lora_a [in, r] and lora_b [r, out], and a config whose scale is used
// as it is: W' = W + scale·(lora_a·lora_b)ᵀ. Modules are spelled as in the model that MLX loaded. DoRA on an embedding,
// whose norm MLX takes by token, has a magnitude of another length than here and is refused for that.
import * as z from 'zod'
import { inputError, type Problems, quote } from '../errors.ts'
import type { Folder } from '../host.ts'
import { describeIssues, readJson } from '../read-file.ts'
import type { StoredTensor } from '../safetensors/read.ts'
import { isFloatTensor } from '../safetensors/stream.ts'
import type { Change } from './change.ts'
import { CONFIG_FILE, MAX_CONFIG_BYTES, Rank, Scale } from './config.ts'
import { locate } from './locate.ts'
import { readLowRank } from './low-rank.ts'
import type { DialectChanges } from './peft.ts'
import type { Dialect, Reading } from './reading.ts'
import { MAX_NAME_CHARS, type ModuleTensors } from './tensor-names.ts'
import type { WeightsFile } from './weights-file.ts'

const KEY = /^(.+)\.(lora_a|lora_b|m)$/
const PARTS = { lora_a: 'A', lora_b: 'B', m: 'magnitude' } as const

// The other keys are the settings of the training.
const MlxJson = z.object({
  fine_tune_type: z.enum(['lora', 'dora']).default('lora'),
  use_dora: z.boolean().default(false),
  lora_parameters: z.object({
    rank: Rank,
    scale: Scale,
    // Early versions multiplied by alpha / rank as well, later ones ignore the key.
    alpha: z.never('whether it counts depends on the version of mlx-lm; remove it if it does not').optional(),
  }),
})

export async function readMlx(
  folder: Folder,
  { tensors }: WeightsFile,
  reading: Omit<Reading, 'location'>,
): Promise<DialectChanges> {
  const { about, problems, base } = reading
  const json = await readJson(folder, CONFIG_FILE, MAX_CONFIG_BYTES)
  if (json === undefined) {
    throw inputError(
      'file-missing',
      `${about}: ${folder.name}/${CONFIG_FILE} is missing; MLX writes it beside the adapter`,
    )
  }
  const parsed = MlxJson.safeParse(json)
  if (!parsed.success) throw inputError('config-invalid', `${about}: ${CONFIG_FILE}: ${describeIssues(parsed.error)}`)
  const { lora_parameters: lora, fine_tune_type: type, use_dora: useDora } = parsed.data
  const modules = nameTensors(tensors, about, problems)
  const names = [...modules.keys()].map((module) => `${module}.weight`)
  const located: Reading = { ...reading, location: locate(names, base, about, problems) }
  const dialect: Dialect = {
    rankOf: () => lora.rank,
    scalingOf: () => lora.scale,
    storesTransposed: true,
    namesEmbeddingsAlike: true,
    useDora: useDora || type === 'dora',
    loraBias: false,
    fanInFanOut: false,
  }
  const changes: Change[] = []
  for (const [module, parts] of modules) changes.push(...(await readLowRank(module, parts, dialect, located)))
  return { changes, loraAlpha: lora.scale * lora.rank, useRslora: false }
}

function nameTensors(
  tensors: ReadonlyMap<string, StoredTensor>,
  about: string,
  problems: Problems,
): Map<string, ModuleTensors> {
  const modules = new Map<string, ModuleTensors>()
  for (const tensor of tensors.values()) {
    const [, path, part] = (tensor.name.length <= MAX_NAME_CHARS && KEY.exec(tensor.name)) || []
    if (path === undefined || !isFloatTensor(tensor)) {
      problems.add(
        path === undefined ? 'tensor-unknown' : 'tensor-dtype',
        `${about}: tensor ${quote(tensor.name)} (${tensor.dtype}) is no lora_a, lora_b or m in F32, F16 or BF16; fuse the ` +
          'adapter with mlx_lm.fuse',
      )
      continue
    }
    const module = modules.get(path) ?? {}
    module[PARTS[part as keyof typeof PARTS]] = tensor
    modules.set(path, module)
  }
  return modules
}
