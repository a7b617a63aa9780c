// A GGUF file as the Hugging Face folder that it was made from: whatever reads a base reads this.
import { SINGLE_FILE } from '../checkpoint/read.ts'
import { inputError } from '../errors.ts'
import type { ByteSource, Folder } from '../host.ts'
import { architectureOf } from './architectures/architectures.ts'
import { nameTensors } from './name-tensors.ts'
import { type GgufHeader, readGguf } from './read.ts'
import { readRopeScaling } from './rope-scaling.ts'
import { tokenizerFiles } from './tokenizer/files.ts'
import { ggufWeights } from './weights-source.ts'

export interface GgufFolder extends Folder {
  /** What `open` finds. */
  readonly files: readonly string[]
  readonly header: GgufHeader
}

const CONFIG = 'config.json'

/**
 * `open` opens the file; it is called again for every reading of the weights. Throws `InputError` for a file that is
 * damaged, or of an architecture, tokenizer or block format that is not read.
 */
export async function openGguf(open: () => Promise<ByteSource>): Promise<GgufFolder> {
  const file = await open()
  try {
    return await readFolder(file, open)
  } finally {
    await file.close()
  }
}

async function readFolder(file: ByteSource, open: () => Promise<ByteSource>): Promise<GgufFolder> {
  const header = await readGguf(file)
  const { metadata, tensors } = header
  const architecture = architectureOf(metadata)
  if (!tensors.has('token_embd.weight')) {
    throw inputError('tensor-missing', `${file.name}: token_embd.weight is missing; this GGUF holds no language model`)
  }
  const config = architecture.config(metadata, tensors)
  checkVocabulary(file.name, metadata.strings('tokenizer.ggml.tokens'), Number(config.vocab_size))
  const rope = await readRopeScaling(file, metadata, tensors, config)
  const named = nameTensors(file.name, architecture, tensors)
  const headDim = Number(config.head_dim)
  const json = tokenizerFiles(metadata)
  const roles = json.get('generation_config.json') ?? {}
  json.set(CONFIG, { ...config, ...(rope === null ? {} : { rope_scaling: rope }), ...roles })
  const texts = new Map([...json].map(([path, value]) => [path, new TextEncoder().encode(JSON.stringify(value))]))
  return {
    name: file.name,
    files: [...texts.keys(), SINGLE_FILE],
    header,
    async open(path) {
      const text = texts.get(path)
      if (text !== undefined) return memory(`${file.name}/${path}`, text)
      return path === SINGLE_FILE ? ggufWeights(await open(), named, headDim) : undefined
    },
  }
}

/** An id beyond the embedding's rows would be refused only when somebody's text has it. */
function checkVocabulary(file: string, tokens: readonly string[] | undefined, rows: number): void {
  if (tokens === undefined || tokens.length <= rows) return
  throw inputError(
    'gguf-invalid',
    `${file}: ${tokens.length} tokens but ${rows} rows of token_embd.weight; convert it again`,
  )
}

function memory(name: string, bytes: Uint8Array<ArrayBuffer>): ByteSource {
  return {
    name,
    size: bytes.length,
    async read(offset, length) {
      if (offset < 0 || length < 0 || offset + length > bytes.length) {
        throw new RangeError(`${name}: bytes ${offset}..${offset + length} are outside the ${bytes.length} bytes`)
      }
      return bytes.slice(offset, offset + length)
    },
    async close() {},
  }
}
