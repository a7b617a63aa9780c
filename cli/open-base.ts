// A base as the command line names it: a Hugging Face folder or a GGUF file.
import { readdir, stat } from 'node:fs/promises'
import { openGguf } from '../compiler/gguf/folder.ts'
import { isGguf } from '../compiler/gguf/read.ts'
import type { Folder } from '../compiler/host.ts'
import { openFile, openFolder } from '../runtime/disk.ts'
import { requireLocal } from './adapter-spec.ts'
import { UserError } from './fail.ts'

/** Throws `UserError` where there is neither, `InputError` where the GGUF cannot be read. */
export async function openBaseFolder(path: string, subject = 'base'): Promise<Folder> {
  return (await openNamed(path, subject)).folder
}

/** As `openBaseFolder`, with the plain files that go along where the base is written again. */
export async function openNamed(path: string, subject = 'base'): Promise<{ folder: Folder; files: readonly string[] }> {
  requireLocal(path, subject)
  const there = await stat(path).catch(() => undefined)
  if (there?.isDirectory()) return { folder: openFolder(path), files: await plainFiles(path) }
  if (!there?.isFile()) throw new UserError(`${subject}: "${path}" does not exist; ${WANTED}.`)
  const file = await openFile(path)
  const gguf = await isGguf(file).finally(() => file.close())
  if (!gguf) throw new UserError(`${subject}: "${path}" is a file but no GGUF; ${WANTED}.`)
  const folder = await openGguf(() => openFile(path))
  return { folder, files: folder.files }
}

const WANTED = 'give the folder that holds its config and safetensors files, or a GGUF file'

async function plainFiles(path: string): Promise<string[]> {
  const entries = await readdir(path, { withFileTypes: true })
  // A link is followed by the folder itself, which refuses one that leaves it.
  return entries.filter((entry) => entry.isFile() || entry.isSymbolicLink()).map(({ name }) => name)
}
