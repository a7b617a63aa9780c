// Folders for the compiler's tests: in memory, where a test edits bytes, and compiled to a temporary one on disk.
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type CompileInput, compile } from '../../compiler/compile.ts'
import type { Manifest } from '../../compiler/contract.ts'
import type { ByteSource, Folder, OutFolder } from '../../compiler/host.ts'
import { nodeHost, openFolder, stageFolder } from '../../runtime/disk.ts'

export const TINY = join(import.meta.dirname, '../parity/oracle/tiny')

export type Files = Readonly<Record<string, Uint8Array | string>>

export function memorySource(name: string, content: Uint8Array | string): ByteSource {
  const bytes = typeof content === 'string' ? new TextEncoder().encode(content) : content
  return {
    name,
    size: bytes.length,
    async read(offset, length) {
      if (offset < 0 || length < 0 || offset + length > bytes.length)
        throw new RangeError(`${name}: read out of bounds`)
      return bytes.slice(offset, offset + length)
    },
    async close() {},
  }
}

export function memoryFolder(name: string, files: Files): Folder {
  return {
    name,
    async open(path) {
      const content = Object.hasOwn(files, path) ? files[path] : undefined
      return content === undefined ? undefined : memorySource(`${name}/${path}`, content)
    },
  }
}

/** An output folder that remembers every byte, and whether it was touched at all. */
export function memoryOut(): OutFolder & { readonly files: Map<string, Uint8Array> } {
  const files = new Map<string, Uint8Array>()
  return {
    files,
    async create(path) {
      if (files.has(path)) throw new Error(`${path} is written twice`)
      const parts: Uint8Array[] = []
      files.set(path, new Uint8Array())
      return {
        async write(bytes) {
          parts.push(bytes.slice())
        },
        async close() {
          files.set(path, new Uint8Array(Buffer.concat(parts)))
        },
      }
    },
  }
}

/** The files of a folder on disk, to be edited in memory. */
export async function loadFiles(path: string, names: readonly string[]): Promise<Record<string, Uint8Array>> {
  const folder = openFolder(path)
  const entries = names.map(async (name) => {
    const file = await folder.open(name)
    if (file === undefined) throw new Error(`${path}/${name} is missing`)
    const bytes = await file.read(0, file.size)
    await file.close()
    return [name, bytes] as const
  })
  return Object.fromEntries(await Promise.all(entries))
}

export const BASE_FILES = ['config.json', 'generation_config.json', 'model.safetensors']
export const ADAPTER_FILES = ['adapter_config.json', 'adapter_model.safetensors']

export interface Compiled extends AsyncDisposable {
  readonly path: string
  readonly id: string
  readonly manifest: Manifest
}

/** An artifact on disk, where ONNX Runtime can open it; gone when disposed of. */
export async function compileToDisk(input: CompileInput): Promise<Compiled> {
  const parent = await mkdtemp(join(tmpdir(), 'sidepath-test-'))
  const path = join(parent, 'artifact')
  const staged = await stageFolder(path)
  const result = await compile(input, staged, nodeHost)
  await staged.commit()
  return { path, ...result, [Symbol.asyncDispose]: () => rm(parent, { recursive: true, force: true }) }
}
