// Opens the folder of an encoder, in one file or in shards, and checks its tensors against its configuration.
import { canonicalJson, compareCodePoints } from '../canonical-json.ts'
import { digestTensor } from '../checkpoint/digest.ts'
import { checkTensor, openTensors } from '../checkpoint/read.ts'
import { Problems, quote } from '../errors.ts'
import type { Folder, Host } from '../host.ts'
import type { StoredTensor } from '../safetensors/read.ts'
import type { FloatTensorSource } from '../safetensors/stream.ts'
import { type EncoderConfig, readEncoderConfig } from './config.ts'
import { type EncoderNames, encoderNames, isLeftOut, oldName, prefixIn } from './names.ts'

export interface EncoderCheckpoint {
  readonly name: string
  readonly config: EncoderConfig
  readonly prefix: string
  readonly names: EncoderNames
  /** Every tensor that the configuration demands, right shape, a float type. */
  readonly tensors: ReadonlyMap<string, FloatTensorSource>
  close(): Promise<void>
}

/** Reads headers only. Throws `InputError` with every problem of the checkpoint. The caller closes the result. */
export async function openEncoder(folder: Folder): Promise<EncoderCheckpoint> {
  const config = await readEncoderConfig(folder)
  return openTensors(folder, (stored) => {
    const prefix = prefixIn(stored, config)
    const names = encoderNames(config, prefix, stored.has(`${prefix}pooler.dense.weight`))
    return { name: folder.name, config, prefix, names, tensors: check(folder.name, config, prefix, names, stored) }
  })
}

function check(
  name: string,
  config: EncoderConfig,
  prefix: string,
  { tensors: required }: EncoderNames,
  stored: ReadonlyMap<string, StoredTensor>,
): Map<string, FloatTensorSource> {
  const problems = new Problems()
  const tensors = new Map<string, FloatTensorSource>()
  const used = new Set<string>()
  for (const [key, shape] of required) {
    const spelled = stored.has(key) ? key : oldName(key)
    const tensor = stored.get(spelled)
    used.add(spelled)
    const checked = checkTensor(name, key, tensor, shape, problems)
    if (checked !== undefined) tensors.set(key, checked)
  }
  for (const key of stored.keys()) {
    if (used.has(key) || isLeftOut(key, config, prefix)) continue
    problems.add(
      'tensor-unknown',
      `${name}: tensor ${quote(key)} has no place in this encoder; is config.json its own?`,
    )
  }
  problems.throwIfAny()
  return tensors
}

/** As `digestBase`, of an encoder: every fact that decides a number, and every tensor that is used. Reads every byte. */
export async function digestEncoder(
  { name, config, tensors }: EncoderCheckpoint,
  host: Host,
  onBytes: (bytes: number) => void = () => {},
): Promise<string> {
  const described = []
  for (const [tensor, source] of [...tensors].sort(([a], [b]) => compareCodePoints(a, b))) {
    const sha256 = await digestTensor(name, source, host, onBytes)
    described.push({ name: tensor, dtype: source.dtype, shape: source.shape, sha256 })
  }
  const { architecture, task, details, pooling = null, labels } = config
  const facts = { ...architecture, ...details, task, pooling, labels: labels?.length ?? 0 }
  const hash = host.sha256()
  hash.update(new TextEncoder().encode(canonicalJson({ config: facts, tensors: described })))
  return hash.hex()
}
