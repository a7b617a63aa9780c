// The folder of a sentence-transformers model: which modules follow the encoder, and what they do to its output.
import { z } from 'zod'
import type { Pooling } from '../contract.ts'
import { inputError, Problems, quote } from '../errors.ts'
import type { Folder } from '../host.ts'
import { describeIssues, readJson } from '../read-file.ts'

/** Published pipelines have two to five. */
const MAX_MODULES = 16

const Modules = z
  .array(z.object({ type: z.string(), path: z.string().regex(/^([\w-][\w.-]*)?$/, 'is no plain folder name') }))
  .min(1)
  .max(MAX_MODULES)

/** In the order in which the old spelling lays them side by side. */
const FLAGS = [
  ['pooling_mode_cls_token', 'cls'],
  ['pooling_mode_max_tokens', 'max'],
  ['pooling_mode_mean_tokens', 'mean'],
  ['pooling_mode_mean_sqrt_len_tokens', 'mean_sqrt_len'],
  ['pooling_mode_weightedmean_tokens', 'weightedmean'],
  ['pooling_mode_lasttoken', 'lasttoken'],
] as const

const MODES: Readonly<Record<string, Pooling['modes'][number]>> = {
  cls: 'cls',
  max: 'max',
  mean: 'mean',
  mean_sqrt_len: 'mean_sqrt_len',
  mean_sqrt_len_tokens: 'mean_sqrt_len',
}

const PoolingJson = z.object({
  pooling_mode: z.union([z.string(), z.array(z.string()).min(1).max(FLAGS.length)]).optional(),
  include_prompt: z.boolean().default(true),
  ...Object.fromEntries(FLAGS.map(([flag]) => [flag, z.boolean().default(false)])),
})

/** The `Dense` and `LayerNorm` modules of some pipelines hold weights of their own. */
const MODULE_HELP = 'only Transformer, Pooling and Normalize are supported; use a model without it'

/** `undefined` where the folder is no sentence-transformers model. Throws `InputError` with what cannot be honoured. */
export async function readPooling(
  folder: Folder,
): Promise<{ pooling: Pooling; maxTokens: number | undefined } | undefined> {
  const json = await readJson(folder, 'modules.json')
  if (json === undefined) return undefined
  const where = `${folder.name}/modules.json`
  const parsed = Modules.safeParse(json)
  if (!parsed.success) throw inputError('config-invalid', `${where}: ${describeIssues(parsed.error)}`)
  // The path of the class differs from version to version; its name does not.
  const kinds = parsed.data.map(({ type }) => type.slice(type.lastIndexOf('.') + 1))
  const problems = new Problems()
  for (const kind of kinds.filter((kind) => !['Transformer', 'Pooling', 'Normalize'].includes(kind))) {
    problems.add('config-unsupported', `${where}: it has a module ${quote(kind)}: ${MODULE_HELP}`)
  }
  if (kinds[0] !== 'Transformer' || parsed.data[0]?.path !== '') {
    problems.add(
      'config-unsupported',
      `${where}: the first module is no Transformer in the folder itself; move it there`,
    )
  }
  const [, pool, normal, ...more] = kinds
  if (pool !== 'Pooling' || more.length > 0 || (normal !== undefined && normal !== 'Normalize')) {
    const order = 'the order Transformer, Pooling and perhaps Normalize is supported'
    problems.add('config-unsupported', `${where}: the modules are ${kinds.map(quote).join(', ')}; ${order}`)
  }
  problems.throwIfAny()
  const modes = await readModes(folder, parsed.data[1]?.path ?? '')
  return { pooling: { modes, normalize: normal === 'Normalize' }, maxTokens: await readMaxTokens(folder) }
}

async function readModes(folder: Folder, path: string): Promise<Pooling['modes']> {
  const file = path === '' ? 'config.json' : `${path}/config.json`
  const json = await readJson(folder, file)
  const where = `${folder.name}/${file}`
  if (json === undefined)
    throw inputError('file-missing', `${where} is missing; modules.json names it, download it again`)
  const parsed = PoolingJson.safeParse(json)
  if (!parsed.success) throw inputError('config-invalid', `${where}: ${describeIssues(parsed.error)}`)
  const config: Readonly<Record<string, unknown>> = parsed.data
  const flagged = FLAGS.filter(([flag]) => config[flag] === true).map(([, mode]) => mode)
  const named = [parsed.data.pooling_mode ?? (flagged.length > 0 ? flagged : 'mean')].flat()
  const problems = new Problems()
  if (!parsed.data.include_prompt) {
    problems.add('config-unsupported', `${where}: include_prompt is false; only pooling over all tokens is supported`)
  }
  const modes = named.flatMap((mode) => {
    const known = Object.hasOwn(MODES, mode) ? MODES[mode] : undefined
    if (known !== undefined) return [known]
    problems.add(
      'config-unsupported',
      `${where}: the pooling mode is ${quote(mode)}; cls, max, mean and mean_sqrt_len are supported`,
    )
    return []
  })
  problems.throwIfAny()
  return modes
}

async function readMaxTokens(folder: Folder): Promise<number | undefined> {
  const file = 'sentence_bert_config.json'
  const json = await readJson(folder, file)
  const parsed = z.object({ max_seq_length: z.int().min(1).nullish() }).safeParse(json ?? {})
  if (!parsed.success) throw inputError('config-invalid', `${folder.name}/${file}: ${describeIssues(parsed.error)}`)
  return parsed.data.max_seq_length ?? undefined
}
