// The file of a folder that holds the adapter, by the name that its tool gives it.
import { inputError } from '../errors.ts'
import type { ByteSource, Folder } from '../host.ts'
import { withFile } from '../read-file.ts'
import { readHeader, type StoredTensor } from '../safetensors/read.ts'

/** In order: the first that is there. */
export const PEFT_FILE = 'adapter_model.safetensors'
export const MLX_FILE = 'adapters.safetensors'
const DIFFUSERS_FILE = 'pytorch_lora_weights.safetensors'
const FILES = [PEFT_FILE, MLX_FILE, DIFFUSERS_FILE]
/** Pickles, which run code when they are loaded. */
const PICKLES = ['adapter_model.bin', 'pytorch_lora_weights.bin']
const INDEX_FILE = 'adapter_model.safetensors.index.json'
/** Rank 256 on every linear of a 70B base takes less. */
const MAX_WEIGHTS_BYTES = 16 * 1024 ** 3

export interface WeightsFile {
  readonly path: string
  readonly tensors: ReadonlyMap<string, StoredTensor>
}

/** Throws `InputError`. The tensors can be read for as long as the folder is there; nothing is to be closed. */
export async function openWeights(folder: Folder, about: string): Promise<WeightsFile> {
  for (const path of FILES) {
    const found = await withFile(folder, path, async (file) => {
      if (file.size > MAX_WEIGHTS_BYTES) {
        throw inputError(
          'file-too-large',
          `${about}: ${file.name} has ${file.size} bytes; at most ${MAX_WEIGHTS_BYTES}`,
        )
      }
      const { tensors } = await readHeader(file)
      if (tensors.size === 0) throw inputError('tensor-missing', `${about}: ${path} has no tensors`)
      const source = reopening(folder, path, file)
      return { path, tensors: new Map([...tensors].map(([name, tensor]) => [name, { ...tensor, source }])) }
    })
    if (found !== undefined) return found
  }
  return reportMissing(folder, about)
}

/** Opens the file for each read, so that a tensor that is kept for later keeps no file open. */
function reopening(folder: Folder, path: string, { name, size }: ByteSource): ByteSource {
  return {
    name,
    size,
    async read(offset, length) {
      const bytes = await withFile(folder, path, (file) => {
        if (file.size !== size) throw inputError('safetensors-invalid', `${name}: it changed while it was read`)
        return file.read(offset, length)
      })
      if (bytes === undefined) throw inputError('file-missing', `${name} went away while it was read`)
      return bytes
    },
    async close() {},
  }
}

async function reportMissing(folder: Folder, about: string): Promise<never> {
  for (const path of PICKLES) {
    if (!(await exists(folder, path))) continue
    throw inputError(
      'adapter-format',
      `${about}: ${folder.name} has only ${path}, a pickle that could run code; ` +
        're-save it with save_pretrained(…, safe_serialization=True)',
    )
  }
  if (await exists(folder, INDEX_FILE)) {
    throw inputError(
      'adapter-format',
      `${about}: ${folder.name} has its weights in shards, which PEFT does not write; re-save it with PEFT, in one file`,
    )
  }
  throw inputError('file-missing', `${about}: ${folder.name}/${PEFT_FILE} is missing; give a folder saved by PEFT`)
}

async function exists(folder: Folder, path: string): Promise<boolean> {
  return (await withFile(folder, path, async () => true)) ?? false
}
