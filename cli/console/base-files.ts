// The bases that the pages may read: files of known names, from their folders, piece by piece.
import { createHash } from 'node:crypto'
import type { ByteSource, Folder } from '../../compiler/host.ts'
import { BaseFile } from '../../jobs/contract.ts'
import { UserError } from '../fail.ts'
import { openNamed } from '../open-base.ts'

const CHUNK_BYTES = 4 * 1024 * 1024
/** What the page shows, and a part of a URL. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/

export interface ServedBase {
  readonly name: string
  readonly folder: Folder
  /** Those of its files that a base is made of. */
  readonly files: readonly string[]
  readonly bytes: number
}

/** NAME=PATH. Throws `UserError`. */
export async function openBases(specs: readonly string[]): Promise<ServedBase[]> {
  const bases: ServedBase[] = []
  for (const spec of specs) {
    const at = spec.indexOf('=')
    const [name, path] = [spec.slice(0, at), spec.slice(at + 1)]
    if (at < 1 || !NAME.test(name)) {
      throw new UserError(
        `--base "${spec}" is no NAME=PATH; write e.g. smollm2=./smollm2, the name of letters and digits.`,
      )
    }
    if (bases.some((base) => base.name === name))
      throw new UserError(`--base: two bases are called "${name}"; rename one.`)
    const { folder, files } = await openNamed(path, `base ${name}`)
    const known = files.filter((file) => BaseFile.safeParse(file).success)
    if (!known.includes('config.json')) {
      throw new UserError(
        `base ${name}: "${path}" has no config.json; give the folder of a checkpoint, or a GGUF file.`,
      )
    }
    let bytes = 0
    for (const file of known) {
      const source = await folder.open(file)
      bytes += source?.size ?? 0
      await source?.close()
    }
    bases.push({ name, folder, files: known, bytes })
  }
  return bases
}

/** Closed when the stream ends, however it does. */
export function streamOf(source: ByteSource): ReadableStream<Uint8Array> {
  let at = 0
  return new ReadableStream({
    async pull(controller) {
      try {
        const bytes = await source.read(at, Math.min(CHUNK_BYTES, source.size - at))
        at += bytes.length
        if (bytes.length > 0) controller.enqueue(bytes)
        if (at < source.size) return
        await source.close()
        controller.close()
      } catch (error) {
        await source.close()
        throw error
      }
    },
    cancel: () => source.close(),
  })
}

/** SHA-256 of a file of a base. */
export async function digestFile({ folder, name }: ServedBase, file: string): Promise<string> {
  const source = await folder.open(file)
  if (source === undefined) throw new UserError(`base ${name}: ${file} is gone; put it back.`)
  const hash = createHash('sha256')
  for await (const bytes of streamOf(source)) hash.update(bytes)
  return hash.digest('hex')
}
