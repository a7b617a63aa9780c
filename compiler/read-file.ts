// Small whole files of a folder: bounded, decoded as strict UTF-8, parsed as strict JSON.
import type { z } from 'zod'
import { inputError, type ProblemCode, quote } from './errors.ts'
import type { ByteSource, Folder } from './host.ts'
import { type Json, JsonError, type JsonNumbers, parseJson } from './strict-json.ts'

/** Configuration files are a few kB; a sharded index of the largest public models is under 10 MB. */
const MAX_JSON_BYTES = 32 * 1024 * 1024

/** Runs `use` on the file and closes it; `undefined` when the folder has no such file. */
export async function withFile<T>(
  folder: Folder,
  path: string,
  use: (file: ByteSource) => Promise<T>,
): Promise<T | undefined> {
  const file = await folder.open(path)
  if (file === undefined) return undefined
  try {
    return await use(file)
  } finally {
    await file.close()
  }
}

/** The parsed file, or `undefined` when there is none. Throws `InputError` when it is too large or not JSON. */
export async function readJson(folder: Folder, path: string, maxBytes = MAX_JSON_BYTES): Promise<Json | undefined> {
  return withFile(folder, path, async (file) => {
    if (file.size > maxBytes) {
      throw inputError('file-too-large', `${file.name}: ${file.size} bytes; at most ${maxBytes} are read`)
    }
    return decodeJson(await file.read(0, file.size), file.name, 'json-invalid')
  })
}

/** Bytes → JSON. Throws `InputError` with `code`. */
export function decodeJson(bytes: Uint8Array, name: string, code: ProblemCode, numbers: JsonNumbers = 'any'): Json {
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw inputError(code, `${name}: not UTF-8; save the file again`)
  }
  try {
    return parseJson(text, numbers)
  } catch (error) {
    if (!(error instanceof JsonError)) throw error
    throw inputError(code, `${name}: not acceptable JSON: ${error.message}`)
  }
}

/** One line per schema violation: `path: what zod found`. */
export function describeIssues(error: z.ZodError): string {
  return error.issues
    .map((issue) => `${quote(issue.path.map(String).join('.') || 'the whole file')}: ${issue.message}`)
    .join('; ')
}
