// A GGUF file: what it is of, in which block formats, and whether this compiler takes it as a base.
import { openCheckpoint } from '../checkpoint/read.ts'
import { Problems } from '../errors.ts'
import { openGguf } from '../gguf/folder.ts'
import type { MetadataValue } from '../gguf/metadata.ts'
import { readGguf } from '../gguf/read.ts'
import type { ByteSource } from '../host.ts'
import { messagesOf } from './adapter.ts'
import type { Inspection } from './inspection.ts'

/** A token list or a chat template is looked at elsewhere. */
const MAX_VALUE_CHARS = 80

export async function inspectGguf(file: ByteSource): Promise<Inspection> {
  const { metadata, tensors } = await readGguf(file)
  const all = [...tensors.values()]
  const formats = new Map<string, number>()
  for (const { format } of all) formats.set(format.name, (formats.get(format.name) ?? 0) + 1)
  const parameters = all.reduce((sum, { shape }) => sum + shape.reduce((product, size) => product * size, 1), 0)
  const bytes = all.reduce((sum, tensor) => sum + tensor.bytes, 0)
  const problems = new Problems()
  const opened = await problems.collect(async () => {
    // The caller closes the file.
    const borrowed = { name: file.name, size: file.size, read: file.read.bind(file), close: async () => {} }
    await (await openCheckpoint(await openGguf(async () => borrowed))).close()
    return true
  })
  return {
    kind: 'gguf',
    name: file.name,
    facts: {
      architecture: metadata.string('general.architecture') ?? null,
      name: metadata.string('general.name') ?? null,
      tensors: all.length,
      parameters,
      bytes,
      'bits per weight': parameters === 0 ? null : (8 * bytes) / parameters,
      formats: [...formats].map(([format, times]) => `${format} × ${times}`),
      compiles: opened === true ? 'yes' : 'no',
    },
    tables: {
      tensors: all.map(({ name, format, shape, bytes: size }) => ({ name, format: format.name, shape, bytes: size })),
      metadata: [...metadata.entries()].map(([key, value]) => ({ key, value: excerpt(value) })),
    },
    notes: messagesOf(problems),
  }
}

function excerpt(value: MetadataValue): string {
  if (typeof value === 'object') return `${value.length} ${Array.isArray(value) ? 'strings' : 'numbers'}`
  const text = String(value)
  return text.length > MAX_VALUE_CHARS ? `${text.slice(0, MAX_VALUE_CHARS)}…` : text
}
