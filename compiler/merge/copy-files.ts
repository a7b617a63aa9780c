// What a checkpoint has beside its weights: config, tokenizer, licence … go along byte for byte.
import { assert, inputError } from '../errors.ts'
import type { Folder, OutFolder } from '../host.ts'
import { withFile } from '../read-file.ts'
import { CHUNK_BYTES } from '../safetensors/stream.ts'
import type { Base } from './open-base.ts'

export interface CopiedFiles {
  readonly copied: readonly string[]
  /** Weights in other formats: of the base as it was, so they would be another model's. */
  readonly leftOut: readonly string[]
}

const WEIGHTS = /\.(?:safetensors|bin|pt|pth|ckpt|h5|msgpack|gguf|onnx|onnx_data|index\.json)$/
/** What an edit may hold in memory; a config is a few kB and the index of the largest public models under 10 MB. */
const MAX_EDITED_BYTES = 32 * 1024 * 1024

/** `files`: plain names in the base's folder. `edits`: by name, text → text. */
export async function copyFiles(
  { folder, shards, index }: Base,
  files: readonly string[],
  edits: ReadonlyMap<string, (text: string, name: string) => string>,
  out: OutFolder,
): Promise<CopiedFiles> {
  const written = new Set(shards.map(({ path }) => path))
  const others = [...new Set([...files, ...(index === undefined ? [] : [index])])].sort()
  const copied: string[] = []
  const leftOut: string[] = []
  for (const path of others) {
    if (written.has(path)) continue
    if (WEIGHTS.test(path) && path !== index) leftOut.push(path)
    else if (await copyFile(folder, path, edits.get(path), out)) copied.push(path)
  }
  for (const path of edits.keys()) assert(copied.includes(path), `${path} was to be edited but is not there`)
  return { copied, leftOut }
}

async function copyFile(
  folder: Folder,
  path: string,
  edit: ((text: string, name: string) => string) | undefined,
  out: OutFolder,
): Promise<boolean> {
  const found = await withFile(folder, path, async (source) => {
    if (edit !== undefined && source.size > MAX_EDITED_BYTES) {
      throw inputError('file-too-large', `${source.name}: ${source.size} bytes; at most ${MAX_EDITED_BYTES} are read`)
    }
    const sink = await out.create(path)
    try {
      if (edit !== undefined) {
        const text = new TextDecoder().decode(await source.read(0, source.size))
        await sink.write(new TextEncoder().encode(edit(text, source.name)))
        return true
      }
      for (let at = 0; at < source.size; at += CHUNK_BYTES) {
        await sink.write(await source.read(at, Math.min(CHUNK_BYTES, source.size - at)))
      }
    } finally {
      await sink.close()
    }
    return true
  })
  return found === true
}
