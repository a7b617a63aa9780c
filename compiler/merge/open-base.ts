// Opens the weights of a Hugging Face folder, whatever the architecture: files in a stable order, tensors in file order.
import { INDEX_FILE, readIndex, SINGLE_FILE } from '../checkpoint/read.ts'
import { Problems, quote } from '../errors.ts'
import type { ByteSource, Folder } from '../host.ts'
import { readHeader, type StoredTensor } from '../safetensors/read.ts'

export interface Shard {
  readonly path: string
  readonly source: ByteSource
  /** Where the data begins; before it is the header. */
  readonly dataStart: number
  /** By offset; they tile the file from `dataStart` to its end. */
  readonly tensors: readonly StoredTensor[]
}

export interface Base {
  readonly name: string
  readonly folder: Folder
  readonly shards: readonly Shard[]
  /** Every tensor of every shard. */
  readonly tensors: ReadonlyMap<string, StoredTensor>
  /** The file that says which tensor is in which shard, where there is more than one. */
  readonly index: string | undefined
  close(): Promise<void>
}

/** Reads headers only. Throws `InputError`. The caller closes the result. */
export async function openBase(folder: Folder): Promise<Base> {
  const sources: ByteSource[] = []
  const close = async () => {
    await Promise.all(sources.map((source) => source.close()))
  }
  try {
    const single = await folder.open(SINGLE_FILE)
    if (single !== undefined) {
      sources.push(single)
      const shard = await readShard(SINGLE_FILE, single)
      return { name: folder.name, folder, shards: [shard], tensors: byName([shard]), index: undefined, close }
    }
    const shards = await openShards(folder, sources)
    return { name: folder.name, folder, shards, tensors: byName(shards), index: INDEX_FILE, close }
  } catch (error) {
    await close()
    throw error
  }
}

async function openShards(folder: Folder, sources: ByteSource[]): Promise<Shard[]> {
  const index = await readIndex(folder)
  const shards: Shard[] = []
  const problems = new Problems()
  for (const path of [...new Set(index.values())].sort()) {
    const source = await folder.open(path)
    if (source === undefined) {
      problems.add('file-missing', `${folder.name}/${path} is missing; ${INDEX_FILE} lists it, download it again`)
      continue
    }
    sources.push(source)
    const shard = await readShard(path, source)
    shards.push(shard)
    for (const { name } of shard.tensors) {
      if (index.get(name) === path) continue
      problems.add('tensor-unknown', `${source.name}: tensor ${quote(name)} is not listed here by ${INDEX_FILE}`)
    }
  }
  const stored = byName(shards)
  for (const [name, path] of index) {
    if (stored.has(name) || !shards.some((shard) => shard.path === path)) continue
    problems.add('tensor-missing', `${folder.name}/${path}: tensor ${quote(name)} is missing; ${INDEX_FILE} lists it`)
  }
  problems.throwIfAny()
  return shards
}

async function readShard(path: string, source: ByteSource): Promise<Shard> {
  const { tensors } = await readHeader(source)
  // An empty tensor may share its offset with the next one.
  const sorted = [...tensors.values()].sort((a, b) => a.offset - b.offset || a.bytes - b.bytes)
  return { path, source, dataStart: sorted[0]?.offset ?? source.size, tensors: sorted }
}

function byName(shards: readonly Shard[]): Map<string, StoredTensor> {
  return new Map(shards.flatMap(({ tensors }) => tensors.map((tensor) => [tensor.name, tensor] as const)))
}
