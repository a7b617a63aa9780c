// Opens a Hugging Face folder, in one file or in shards, and checks its tensors against its configuration.
import { z } from 'zod'
import { inputError, Problems, quote } from '../errors.ts'
import type { ByteSource, Folder } from '../host.ts'
import { describeIssues, readJson } from '../read-file.ts'
import { readHeader, type StoredTensor } from '../safetensors/read.ts'
import { type FloatTensorSource, isFloatTensor } from '../safetensors/stream.ts'
import { readConfig } from './config.ts'
import { type Decoder, HEAD } from './decoder.ts'
import { isBuffer, requiredTensors } from './names.ts'

export const SINGLE_FILE = 'model.safetensors'
export const INDEX_FILE = 'model.safetensors.index.json'
/** The largest public checkpoints have under 200 shards. */
const MAX_SHARDS = 1024

const IndexJson = z.object({
  // A plain file name: a path in an index could reach out of the folder.
  weight_map: z.record(z.string(), z.string().regex(/^[\w.-]+\.safetensors$/)),
})

export interface Checkpoint {
  readonly name: string
  readonly config: Decoder
  /** Every tensor that the configuration demands, right shape, a float type. */
  readonly tensors: ReadonlyMap<string, FloatTensorSource>
  /** A head that is stored although the configuration ties it to the embedding; it must hold the same bytes. */
  readonly redundantHead: FloatTensorSource | undefined
  close(): Promise<void>
}

/** Reads headers only. Throws `InputError` with every problem of the checkpoint. The caller closes the result. */
export async function openCheckpoint(folder: Folder): Promise<Checkpoint> {
  const config = await readConfig(folder)
  return openTensors(folder, (stored) => ({ name: folder.name, config, ...checkTensors(folder.name, config, stored) }))
}

/** What `check` makes of the tensors of a folder, in one file or in shards. Where it throws, everything is closed. */
export async function openTensors<T extends object>(
  folder: Folder,
  check: (stored: ReadonlyMap<string, StoredTensor>) => T,
): Promise<T & { close(): Promise<void> }> {
  const sources: ByteSource[] = []
  const close = async () => {
    await Promise.all(sources.map((source) => source.close()))
  }
  try {
    return { ...check(await readTensors(folder, sources)), close }
  } catch (error) {
    await close()
    throw error
  }
}

/** Of one file or of all shards; every file that was opened joins `sources`, which the caller closes. */
async function readTensors(folder: Folder, sources: ByteSource[]): Promise<Map<string, StoredTensor>> {
  const single = await folder.open(SINGLE_FILE)
  if (single !== undefined) {
    sources.push(single)
    return new Map((await readHeader(single)).tensors)
  }
  const index = await readIndex(folder)
  const tensors = new Map<string, StoredTensor>()
  const problems = new Problems()
  for (const path of new Set(index.values())) {
    const shard = await folder.open(path)
    if (shard === undefined) {
      problems.add('file-missing', `${folder.name}/${path} is missing; ${INDEX_FILE} lists it, download it again`)
      continue
    }
    sources.push(shard)
    for (const [name, tensor] of (await readHeader(shard)).tensors) {
      if (index.get(name) === path) tensors.set(name, tensor)
      else problems.add('tensor-unknown', `${shard.name}: tensor ${quote(name)} is not listed here by ${INDEX_FILE}`)
    }
  }
  problems.throwIfAny()
  return tensors
}

/** Tensor name → the file that holds it. */
export async function readIndex(folder: Folder): Promise<Map<string, string>> {
  const json = await readJson(folder, INDEX_FILE)
  if (json === undefined) {
    throw inputError(
      'file-missing',
      `${folder.name} has neither ${SINGLE_FILE} nor ${INDEX_FILE}; save the base with safe_serialization=True`,
    )
  }
  const parsed = IndexJson.safeParse(json)
  if (!parsed.success) {
    throw inputError('config-invalid', `${folder.name}/${INDEX_FILE}: ${describeIssues(parsed.error)}`)
  }
  const index = new Map(Object.entries(parsed.data.weight_map))
  const shards = new Set(index.values()).size
  if (shards > MAX_SHARDS) {
    throw inputError('file-too-large', `${folder.name}/${INDEX_FILE}: ${shards} shards; at most ${MAX_SHARDS} are read`)
  }
  return index
}

function checkTensors(
  name: string,
  config: Decoder,
  stored: ReadonlyMap<string, StoredTensor>,
): Pick<Checkpoint, 'tensors' | 'redundantHead'> {
  const problems = new Problems()
  const required = requiredTensors(config)
  const tensors = new Map<string, FloatTensorSource>()
  for (const [key, shape] of required) {
    const tensor = stored.get(key)
    const checked = checkTensor(name, key, tensor, shape, problems)
    if (checked !== undefined) tensors.set(key, checked)
  }
  let redundantHead: FloatTensorSource | undefined
  for (const [key, tensor] of stored) {
    if (required.has(key) || isBuffer(key)) continue
    if (key === HEAD && isFloatTensor(tensor)) redundantHead = tensor
    else
      problems.add(
        'tensor-unknown',
        `${name}: tensor ${quote(key)} has no place in a ${config.architecture.family}; is config.json its own?`,
      )
  }
  problems.throwIfAny()
  return { tensors, redundantHead }
}

/** What the configuration demands under `key`, or undefined, with the problem noted. */
export function checkTensor(
  name: string,
  key: string,
  tensor: StoredTensor | undefined,
  shape: readonly number[],
  problems: Problems,
): FloatTensorSource | undefined {
  if (tensor === undefined) {
    problems.add('tensor-missing', `${name}: tensor ${quote(key)} is missing; config.json demands it`)
  } else if (tensor.shape.join() !== shape.join()) {
    problems.add(
      'tensor-shape',
      `${name}: tensor ${quote(key)} is [${tensor.shape}] but config.json says [${shape}]; they are not of one model`,
    )
  } else if (isFloatTensor(tensor)) return tensor
  else {
    problems.add(
      'tensor-dtype',
      `${name}: tensor ${quote(key)} is ${tensor.dtype}; F32, F16 and BF16 are supported, save the base in one of them`,
    )
  }
  return undefined
}
