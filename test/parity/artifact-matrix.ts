// Every artifact of the test matrix: each base among the oracles and the demo, with each target that takes its adapters;
// the demo stored in every way that there is; and each export of another tool after surgery.
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join, relative } from 'node:path'
import { gunzipSync } from 'node:zlib'
import type { CompileInput } from '../../compiler/compile.ts'
import { compileAny } from '../../compiler/compile-any.ts'
import type { Manifest } from '../../compiler/contract.ts'
import { graphFiles } from '../../compiler/contract.ts'
import { InputError } from '../../compiler/errors.ts'
import type { OutFolder } from '../../compiler/host.ts'
import type { QuantiseOptions } from '../../compiler/quantise/spec.ts'
import { operate } from '../../compiler/surgery/operate.ts'
import { nodeHost, openFolder } from '../../runtime/disk.ts'
import { memoryFolder } from '../compiler/folders.ts'

export const ROOT = join(import.meta.dirname, '..', '..')
const TARGETS: readonly Manifest['target'][] = ['routed', 'stacked', 'merged']

export interface Case {
  /** Path of the base, target and adapters: `test/parity/oracle/tiny/base routed a b`. */
  readonly name: string
  readonly base: string
  readonly target: Manifest['target']
  readonly adapters: readonly string[]
  readonly quantise?: QuantiseOptions
  /** `base` is the gzipped ONNX file of another tool. */
  readonly isExport?: boolean
}

export interface Graph {
  readonly path: string
  readonly sha256: string | undefined
}

const PLAIN = { block: 32, grid: 'symmetric', rounding: 'rtn', keep: [], eight: [] } as const
const STORED: Readonly<Record<string, QuantiseOptions>> = {
  int4: { ...PLAIN, method: 'int4' },
  'int4-asymmetric': { ...PLAIN, method: 'int4', grid: 'asymmetric' },
  'int4-affine': { ...PLAIN, method: 'int4', grid: 'affine' },
  'int4-block16-search': { ...PLAIN, method: 'int4', block: 16, rounding: 'search' },
  int8: { ...PLAIN, method: 'int8' },
  'int8-asymmetric': { ...PLAIN, method: 'int8', grid: 'asymmetric' },
  nf4: { ...PLAIN, method: 'nf4', block: 64 },
  fp16: { ...PLAIN, method: 'fp16' },
}

/** New families are found by where they lie: a folder with a config, and adapters beside it, or in `adapters/` beside or below it. */
export function listCases(): Case[] {
  return [...compiledCases(), ...storedCases(), ...exportCases()]
}

function storedCases(): Case[] {
  const base = join(ROOT, 'examples', 'demo', 'base')
  const adapters = findAdapters(base).slice(0, 1)
  return Object.entries(STORED).flatMap(([key, quantise]) =>
    TARGETS.map((target) => {
      const name = [relative(ROOT, base), key, target, ...adapters.map((path) => basename(path))].join(' ')
      return { name, base, target, adapters, quantise }
    }),
  )
}

/** Where a target does not take a form, the case says so: it is refused. */
function exportCases(): Case[] {
  const of = (folder: string, adapter: (file: string) => readonly string[]): Case[] => {
    const at = join(ROOT, 'test', 'parity', 'oracle', folder)
    const files = readdirSync(at).filter((file) => file.endsWith('.onnx.gz') && file !== 'external.onnx.gz')
    return files.sort().flatMap((file) =>
      adapter(file).flatMap((name) =>
        TARGETS.map((target) => {
          const base = join(at, file)
          return {
            name: `${relative(ROOT, base)} ${target} ${name}`,
            base,
            target,
            adapters: [join(at, name)],
            isExport: true,
          }
        }),
      ),
    )
  }
  return [
    ...of('exporters', () => ['fused', 'part', 'whole']),
    ...of('surgery', (file) => [file === 'gemm.onnx.gz' ? 'gemm-adapter' : 'adapter']),
  ]
}

function compiledCases(): Case[] {
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

/** What came of a case: the graphs, or the codes of the sentences with which the compiler refuses it. */
export async function compileCase(one: Case, out: OutFolder): Promise<{ graphs: Graph[] } | { refused: string[] }> {
  try {
    return { graphs: await graphsOf(one, out) }
  } catch (error) {
    if (!(error instanceof InputError)) throw error
    return { refused: error.problems.map(({ code }) => code) }
  }
}

async function graphsOf({ base, target, adapters: paths, quantise, isExport }: Case, out: OutFolder): Promise<Graph[]> {
  const adapters = paths.map((path) => ({ name: basename(path), folder: openFolder(path) }))
  if (isExport) {
    const files = { 'model.onnx': new Uint8Array(gunzipSync(readFileSync(base))) }
    const order = { base: memoryFolder('export', files), files: ['model.onnx'], adapters, target }
    const report = await operate(order, out, nodeHost)
    return report.files.filter(({ path }) => path.endsWith('.onnx')).map(({ path, sha256 }) => ({ path, sha256 }))
  }
  const input: CompileInput = { base: openFolder(base), adapters, target, ...(quantise && { quantise }) }
  const { manifest } = await compileAny(input, out, nodeHost)
  const hashes = new Map(manifest.files.map(({ path, sha256 }) => [path, sha256]))
  return graphFiles(manifest).map((path) => ({ path, sha256: hashes.get(path) }))
}

/** A stack of nothing is no artifact, two classifiers do not go into one, and docs/surgery.md says what no path is made for. */
export function mayBeRefused({ name, target, adapters }: Case): boolean {
  const isOfTwoHeads = name.includes('-classifier ') && target !== 'routed' && adapters.length === 2
  const isUnsupported =
    ((name.includes('bnb4') || name.includes('-fp16')) && target === 'merged') ||
    (name.includes('gemm.onnx') && target === 'routed')
  return (target === 'stacked' && adapters.length === 0) || isOfTwoHeads || isUnsupported
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
