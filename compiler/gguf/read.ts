// Reads the header of a GGUF file: metadata and where each tensor lies. Rules: github.com/ggml-org/ggml, docs/gguf.md.
// The file is untrusted: everything is checked before any tensor is read.
import { inputError, quote } from '../errors.ts'
import type { ByteSource } from '../host.ts'
import type { BlockFormat } from './blocks/block-format.ts'
import { FORMAT_NAMES, FORMATS, formatName } from './blocks/formats.ts'
import { Cursor } from './cursor.ts'
import { MAX_ALIGNMENT, MAX_DIMS, MAX_KEY_BYTES, MAX_KEYS, MAX_NAME_BYTES, MAX_TENSORS } from './limits.ts'
import { Metadata, type MetadataValue, readValue } from './metadata.ts'

export const MAGIC = 'GGUF'
/** "GGUF", version, count of tensors, count of keys. */
const PREFIX_BYTES = 24
const DEFAULT_ALIGNMENT = 32

export interface GgufTensor {
  readonly name: string
  readonly format: BlockFormat
  /** Rows before columns, as PyTorch has it; the file lists them the other way round. */
  readonly shape: readonly number[]
  /** Absolute. */
  readonly offset: number
  readonly bytes: number
}

export interface GgufHeader {
  readonly metadata: Metadata
  /** In file order. */
  readonly tensors: ReadonlyMap<string, GgufTensor>
}

/** True where the file begins as a GGUF does. */
export async function isGguf(source: ByteSource): Promise<boolean> {
  if (source.size < MAGIC.length) return false
  return String.fromCharCode(...(await source.read(0, MAGIC.length))) === MAGIC
}

/** Throws `InputError`: `gguf-invalid` unless the file is whole and unambiguous, `gguf-unsupported` for other types. */
export async function readGguf(source: ByteSource): Promise<GgufHeader> {
  const cursor = new Cursor(source)
  await cursor.fetch(PREFIX_BYTES, 'the beginning')
  if (String.fromCharCode(...cursor.bytes(4)) !== MAGIC) cursor.fail('it does not begin with "GGUF"')
  const version = cursor.u32()
  if ((version & 0xffff) === 0) unsupported(source, 'it is big-endian; convert the model for little-endian machines')
  if (version !== 2 && version !== 3) {
    unsupported(source, `it is GGUF version ${version}; versions 2 and 3 are read, convert the model again`)
  }
  const tensorCount = cursor.u64('the number of tensors')
  const keyCount = cursor.u64('the number of keys')
  if (tensorCount > MAX_TENSORS) cursor.fail(`${tensorCount} tensors; at most ${MAX_TENSORS} are read`)
  if (keyCount > MAX_KEYS) cursor.fail(`${keyCount} keys; at most ${MAX_KEYS} are read`)
  const metadata = new Metadata(source.name, await readMetadata(cursor, keyCount))
  const split = metadata.number('split.count') ?? 0
  if (split > 1) unsupported(source, `it is one of ${split} parts; join them with llama.cpp's gguf-split --merge`)
  const described = []
  for (let i = 0; i < tensorCount; i += 1) described.push(await readDescription(cursor, source, i))
  return { metadata, tensors: placeTensors(source, described, cursor, alignmentOf(metadata)) }
}

async function readMetadata(cursor: Cursor, count: number): Promise<Map<string, MetadataValue>> {
  const values = new Map<string, MetadataValue>()
  for (let i = 0; i < count; i += 1) {
    const key = await cursor.string(`key ${i}`, MAX_KEY_BYTES)
    if (values.has(key)) cursor.fail(`the key ${quote(key)} is there twice`)
    values.set(key, await readValue(cursor, key))
  }
  return values
}

function alignmentOf(metadata: Metadata): number {
  const alignment = metadata.number('general.alignment') ?? DEFAULT_ALIGNMENT
  if (alignment >= 1 && alignment <= MAX_ALIGNMENT && Number.isInteger(Math.log2(alignment))) return alignment
  throw inputError('gguf-invalid', `${metadata.file}: general.alignment is ${alignment}; it is a power of two`)
}

type Described = Omit<GgufTensor, 'offset'> & {
  /** From the beginning of the data. */
  readonly begin: number
}

async function readDescription(cursor: Cursor, source: ByteSource, index: number): Promise<Described> {
  const name = await cursor.string(`the name of tensor ${index}`, MAX_NAME_BYTES)
  const about = `tensor ${quote(name)}`
  await cursor.fetch(4, about)
  const dims = cursor.u32()
  if (dims < 1 || dims > MAX_DIMS) cursor.fail(`${about} has ${dims} dimensions; 1 to ${MAX_DIMS} are read`)
  await cursor.fetch(8 * dims + 12, about)
  const shape: number[] = []
  for (let i = 0; i < dims; i += 1) shape.unshift(cursor.u64(`a size of ${about}`))
  const type = cursor.u32()
  const begin = cursor.u64(`the offset of ${about}`)
  const format = FORMATS.get(type)
  if (format === undefined) {
    return unsupported(source, `${about} is ${formatName(type)}; ${FORMAT_NAMES} are read, quantise to one of them`)
  }
  const columns = shape.at(-1) as number
  if (columns % format.elements !== 0) {
    cursor.fail(`${about} has rows of ${columns}, which are no whole blocks of ${format.name} (${format.elements})`)
  }
  const bytes = checkedBytes(shape, format)
  if (bytes === undefined || bytes > source.size) {
    cursor.fail(`${about}, ${format.name} [${shape}], takes ${bytes ?? 'too many'} bytes in a file of ${source.size}`)
  }
  return { name, format, shape, begin, bytes: bytes as number }
}

function checkedBytes(shape: readonly number[], format: BlockFormat): number | undefined {
  if (shape.includes(0)) return undefined
  let count = 1
  for (const size of shape) {
    count *= size
    if (count * format.bytes > Number.MAX_SAFE_INTEGER) return undefined
  }
  return (count / format.elements) * format.bytes
}

/** In file order the tensors follow one another, each on the next multiple of the alignment: no hole, no overlap. */
function placeTensors(
  source: ByteSource,
  described: readonly Described[],
  cursor: Cursor,
  alignment: number,
): Map<string, GgufTensor> {
  const aligned = (position: number) => Math.ceil(position / alignment) * alignment
  const dataStart = aligned(cursor.position)
  const tensors = new Map<string, GgufTensor>()
  let end = 0
  for (const { begin, ...tensor } of [...described].sort((a, b) => a.begin - b.begin)) {
    const about = `tensor ${quote(tensor.name)}`
    if (tensors.has(tensor.name)) cursor.fail(`${about} is there twice`)
    if (begin % alignment !== 0) cursor.fail(`${about} begins at ${begin}, which is no multiple of ${alignment}`)
    if (begin < end) cursor.fail(`${about} overlaps the tensor before it`)
    if (begin > aligned(end)) cursor.fail(`${about} leaves a hole before it`)
    end = begin + tensor.bytes
    if (dataStart + end > source.size) {
      cursor.fail(`${about} ends at byte ${dataStart + end} of a file of ${source.size}; download it again`)
    }
    tensors.set(tensor.name, { ...tensor, offset: dataStart + begin })
  }
  return tensors
}

function unsupported(source: ByteSource, what: string): never {
  throw inputError('gguf-unsupported', `${source.name}: ${what}`)
}
