// Every artifact of the test matrix: each base among the oracles and the demo, with each target that takes its adapters.
import { existsSync, readdirSync } from 'node:fs'
import { basename, dirname, join, relative } from 'node:path'
import type { CompileInput } from '../../compiler/compile.ts'
import { compileAny } from '../../compiler/compile-any.ts'
import type { AnyManifest, Manifest } from '../../compiler/contract.ts'
import { InputError } from '../../compiler/errors.ts'
import type { OutFolder } from '../../compiler/host.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'

const ROOT = join(import.meta.dirname, '..', '..')
const TARGETS: readonly Manifest['target'][] = ['routed', 'stacked', 'merged']

export interface Case {
  /** Path of the base, target and adapters: `test/parity/oracle/tiny/base routed a b`. */
  readonly name: string
  readonly base: string
  readonly target: Manifest['target']
  readonly adapters: readonly string[]
}

/** New families are found by where they lie: a folder with a config, and adapters beside it, or in `adapters/` beside or below it. */
export function listCases(): Case[] {
  return findBases().flatMap((base) => {
    const adapters = findAdapters(base)
    const sets = [[], ...adapters.map((adapter) => [adapter]), ...(adapters.length > 1 ? [adapters] : [])]
    return TARGETS.flatMap((target) => {
      return sets.map((set) => ({
        name: [relative(ROOT, base), target, ...set.map((path) => basename(path))].join(' '),
        base,
        target,
        adapters: set,
      }))
    })
  })
}

/** What came of a case: a manifest, or the sentences with which the compiler refuses it. */
export async function compileCase(
  { base, target, adapters }: Case,
  out: OutFolder,
): Promise<{ manifest: AnyManifest } | { refused: string[] }> {
  const input: CompileInput = {
    base: openFolder(base),
    adapters: adapters.map((path) => ({ name: basename(path), folder: openFolder(path) })),
    target,
  }
  try {
    return await compileAny(input, out, nodeHost)
  } catch (error) {
    if (!(error instanceof InputError)) throw error
    return { refused: error.problems.map(({ code }) => code) }
  }
}

function findBases(): string[] {
  const oracles = join(ROOT, 'test', 'parity', 'oracle')
  const found = readdirSync(oracles, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name === 'config.json')
    .map((entry) => entry.parentPath)
    .filter((folder) => readdirSync(folder).some((name) => /\.safetensors(\.index\.json)?$/.test(name)))
  return [...found, join(ROOT, 'examples', 'demo', 'base')].sort()
}

function findAdapters(base: string): string[] {
  const parent = dirname(base)
  const folders = [parent, join(parent, 'adapters'), join(base, 'adapters')].filter(existsSync).flatMap(list)
  return folders.filter((folder) => readdirSync(folder).includes('adapter_config.json')).sort()
}

function list(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(folder, entry.name))
}
