// The demo's artifact: compiled on first start, found by the content of its inputs afterwards.
import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { isEncoder, type Manifest } from '../../compiler/contract.ts'
import { assert } from '../../compiler/errors.ts'
import { readArtifact } from '../../compiler/read-artifact.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'
import { compileToFolder } from '../compile.ts'
import type { DataFolder } from './data-folder.ts'

const ROOT = join(import.meta.dirname, '..', '..')
const BASE = join(ROOT, 'examples', 'demo', 'base')
const ADAPTERS = join(ROOT, 'examples', 'demo', 'adapters')
const CACHE_FILE = 'demo-artifact.json'

export interface DemoArtifact {
  readonly id: string
  readonly path: string
  readonly manifest: Manifest
  readonly compiled: boolean
}

export async function demoArtifact(folder: DataFolder): Promise<DemoArtifact> {
  // The compiler is one of the inputs: another compiler may write another artifact from the same files.
  const input = await digestOf([BASE, ADAPTERS, join(ROOT, 'compiler')])
  const cached = (await folder.readJson(CACHE_FILE)) as { input?: string; id?: string } | undefined
  if (cached?.input === input && typeof cached.id === 'string') {
    const path = folder.join('artifacts', cached.id)
    const found = await readArtifact(openFolder(path), nodeHost).catch(() => undefined)
    if (found?.id === cached.id) return { ...found, path, compiled: false }
  }
  const adapters = (await readdir(ADAPTERS)).sort().map((name) => ({ name, path: join(ADAPTERS, name), weight: 1 }))
  const made = await compileToFolder(
    { base: BASE, adapters, target: 'routed' },
    (id) => folder.join('artifacts', id),
    true,
  )
  await folder.writePrivate(CACHE_FILE, { input, id: made.id })
  const { manifest } = made
  assert(!isEncoder(manifest), 'the base of the demo is an encoder')
  return { ...made, manifest, compiled: true }
}

/** SHA-256 over the names and bytes of every file below the folders. */
async function digestOf(folders: readonly string[]): Promise<string> {
  const hash = createHash('sha256')
  for (const folder of folders) {
    const files = (await readdir(folder, { recursive: true, withFileTypes: true })).filter((entry) => entry.isFile())
    for (const path of files.map((entry) => join(entry.parentPath, entry.name)).sort()) {
      const bytes = await readFile(path)
      hash.update(`${relative(ROOT, path)}\0${bytes.length}\0`).update(bytes)
    }
  }
  return hash.digest('hex')
}
