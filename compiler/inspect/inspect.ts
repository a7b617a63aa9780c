// Says what a folder or a file is, by what is in it and not by its name, and what it holds.
import { CONFIG_FILE } from '../adapter/config.ts'
import { MLX_FILE, PEFT_FILE } from '../adapter/weights-file.ts'
import { INDEX_FILE, SINGLE_FILE } from '../checkpoint/read.ts'
import { MANIFEST_FILE } from '../contract.ts'
import { InputError, inputError, quote } from '../errors.ts'
import { MAGIC } from '../gguf/read.ts'
import type { ByteSource, Folder, Host } from '../host.ts'
import { FILE_IDENTIFIER } from '../onnx-adapter/format.ts'
import { withFile } from '../read-file.ts'
import { inspectAdapter } from './adapter.ts'
import { inspectArtifact } from './artifact.ts'
import { CHECKPOINT_CONFIG, inspectCheckpoint } from './checkpoint.ts'
import { inspectGguf } from './gguf.ts'
import type { Inspection } from './inspection.ts'
import { inspectOnnx } from './onnx.ts'
import { inspectOnnxAdapter } from './onnx-adapter.ts'
import { inspectSafetensors } from './safetensors.ts'

const KNOWN =
  'a PEFT, MLX or kohya adapter folder, a Hugging Face checkpoint, an artifact, or a .safetensors, .gguf, .onnx or .onnx_adapter file'
/** Enough for every format's beginning. */
const HEAD_BYTES = 16
/** Field 1 of ModelProto, ir_version, a varint: how every exporter that is known begins. */
const ONNX_FIRST_BYTE = 0x08
/** Formats that are met in the same places and are not read. */
const OTHERS: readonly (readonly [begin: string, what: string])[] = [
  ['PK\u0003\u0004', 'a zip, perhaps a PyTorch pickle, which could run code; re-save it as safetensors'],
  ['\u0080\u0002', 'a pickle, which could run code; re-save it as safetensors'],
]

/** Throws `InputError`: `file-unknown` where it is nothing that is known, else what is wrong with it. */
export async function inspectFolder(folder: Folder, host: Host): Promise<Inspection> {
  const has = async (...paths: string[]) => {
    for (const path of paths) if ((await withFile(folder, path, async () => true)) === true) return true
    return false
  }
  if (await has(MANIFEST_FILE)) return inspectArtifact(folder, host)
  if (await has(CONFIG_FILE, PEFT_FILE, MLX_FILE, 'pytorch_lora_weights.safetensors', 'adapter_model.bin')) {
    return inspectAdapter(folder)
  }
  if (await has(CHECKPOINT_CONFIG, SINGLE_FILE, INDEX_FILE)) return inspectCheckpoint(folder)
  throw unknown(folder.name, 'none of the files by which a folder is known')
}

/** `folder`: the one that the file lies in, where its external data is looked for. */
export async function inspectFile(file: ByteSource, folder: Folder): Promise<Inspection> {
  const head = await file.read(0, Math.min(HEAD_BYTES, file.size))
  const text = String.fromCharCode(...head)
  if (text.slice(4, 8) === FILE_IDENTIFIER) return inspectOnnxAdapter(file)
  if (text.startsWith(MAGIC)) return inspectGguf(file)
  if (text[8] === '{') return inspectSafetensors(file)
  const other = OTHERS.find(([begin]) => text.startsWith(begin))
  if (other !== undefined) throw unknown(file.name, other[1])
  if (head[0] === ONNX_FIRST_BYTE) return inspectOnnx(file, folder)
  try {
    return await inspectOnnx(file, folder)
  } catch (error) {
    if (!(error instanceof InputError)) throw error
    throw unknown(file.name, `it begins with ${quote(text)}`)
  }
}

function unknown(name: string, found: string): InputError {
  return inputError('file-unknown', `${name}: ${found}; this is not ${KNOWN}`)
}
