// trainable_token_indices → rows of an embedding that are replaced.
import { quote } from '../errors.ts'
import type { FloatTensorSource } from '../safetensors/stream.ts'
import type { Change } from './change.ts'
import type { AdapterConfig } from './config.ts'
import { type Reading, readFinite } from './reading.ts'
import { reportNoModule } from './report-module.ts'
import type { AdapterTensors, ModuleTensors } from './tensor-names.ts'

export async function readTokenRows(
  modules: AdapterTensors['modules'],
  { tokens }: AdapterConfig,
  reading: Reading,
): Promise<Change[]> {
  const { about, problems } = reading
  const changes: Change[] = []
  const seen: string[] = []
  for (const [module, part] of modules) {
    if (part.tokens === undefined) {
      if (part.originalTokens !== undefined) reportAlone(module, reading)
      continue
    }
    seen.push(module)
    const rows = rowsOf(module, tokens)
    if (rows === undefined) {
      problems.add(
        'adapter-pair',
        `${about}: ${module} has trainable_tokens_delta but trainable_token_indices does not say of which tokens; fix the config`,
      )
    } else changes.push(...(await readRows(module, part, part.tokens, rows, reading)))
  }
  const named = tokens instanceof Map ? [...tokens.keys()] : tokens === undefined ? [] : ['']
  for (const name of named.filter((name) => !seen.some((module) => module.endsWith(name)))) {
    problems.add(
      'adapter-pair',
      `${about}: trainable_token_indices names ${quote(name || 'the embedding')} but there is no trainable_tokens_delta ` +
        'for it; the file is incomplete, re-export it',
    )
  }
  return changes
}

/** PEFT's rule: the first name that the module's path ends with, after a dot or not. */
function rowsOf(module: string, tokens: AdapterConfig['tokens']): readonly number[] | undefined {
  if (!(tokens instanceof Map)) return tokens as readonly number[] | undefined
  for (const [name, rows] of tokens) if (module.endsWith(name)) return rows
  return undefined
}

async function readRows(
  module: string,
  part: ModuleTensors,
  tensor: FloatTensorSource,
  rows: readonly number[],
  reading: Reading,
): Promise<Change[]> {
  const { about, problems, base, location } = reading
  const target = location.toBase(module)
  const shape = base.get(`${target}.weight`)?.shape
  if (shape === undefined) {
    reportNoModule(module, target, reading)
    return []
  }
  const [count = 0, width] = shape
  const wrong =
    tensor.shape.join() !== `${rows.length},${width}`
      ? `has trainable_tokens_delta [${tensor.shape}] but ${rows.length} tokens and the base's width ${width} make [${rows.length},${width}]`
      : rows.some((row) => row >= count)
        ? `replaces the token ${Math.max(...rows.slice(0, 1000))} but the base has ${count}; resize the base and save that`
        : new Set(rows).size !== rows.length
          ? 'names a token twice in trainable_token_indices; which value it means cannot be told'
          : part.A !== undefined || part.B !== undefined
            ? 'has both LoRA and trainable tokens, which PEFT does not make'
            : undefined
  if (wrong !== undefined) {
    problems.add('adapter-base', `${about}: ${module} ${wrong}`)
    return []
  }
  const value = await readFinite(tensor, `${module}.trainable_tokens_delta`, reading)
  const sources = [tensor, part.originalTokens].flatMap((source) => source?.name ?? [])
  return [{ kind: 'rows', tensor: `${target}.weight`, rows: [...rows], value, sources }]
}

function reportAlone(module: string, { about, problems }: Reading): void {
  problems.add(
    'adapter-pair',
    `${about}: ${module} has trainable_tokens_original but no trainable_tokens_delta; re-export the adapter`,
  )
}
