// What is verified: an adapter of the artifact, or all of a stack at their weights.
import type { AdapterEntry, AnyManifest } from '../contract.ts'
import { inputError, quote } from '../errors.ts'
import type { Folder } from '../host.ts'
import { mixAdapters } from '../mix-adapters.ts'
import { type CompiledAdapter, readAdapter } from '../read-adapter.ts'
import { withFile } from '../read-file.ts'
import type { Deltas, Summand } from './merged-form.ts'
import type { Modules } from './side-path.ts'
import { sourceDeltas } from './sources.ts'
import type { Task } from './task.ts'

export interface Subject {
  readonly name: string
  readonly entries: readonly AdapterEntry[]
  /** As the graph is fed them: scaling and weight in B. */
  readonly modules: Modules
  /** The largest. */
  readonly rank: number
}

export async function loadSubject(folder: Folder, manifest: AnyManifest, entry: AdapterEntry): Promise<Subject> {
  const { modules, r } = await load(folder, manifest, entry)
  return { name: entry.name, entries: [entry], modules, rank: r }
}

export async function wholeStack(folder: Folder, manifest: AnyManifest): Promise<Subject> {
  const parts: CompiledAdapter[] = []
  for (const entry of manifest.adapters) parts.push(await load(folder, manifest, entry))
  // At weight 1 each: the weights are in the files.
  const modules = mixAdapters(parts)
  const rank = Math.max(...[...modules.values()].map(({ r }) => r))
  return { name: nameOf(manifest.adapters), entries: manifest.adapters, modules, rank }
}

/** `a*0.7 + b`, as the command line takes them. */
export function nameOf(entries: readonly AdapterEntry[]): string {
  return entries.map(({ name, weight }) => (weight === 1 ? name : `${name}*${weight}`)).join(' + ') || 'base'
}

/** What the merged form adds to the base: as the sources say where all are given, else as the artifact's files do. */
export async function deltasOf(
  { entries, modules }: Subject,
  { sources, manifest }: Pick<Task, 'sources' | 'manifest'>,
): Promise<Deltas> {
  const all = new Map<string, Summand[]>()
  for (const { name, weight } of entries) {
    const deltas = await sourceDeltas(sources, manifest, name, weight)
    if (deltas === undefined) {
      return new Map([...modules].map(([path, module]): [string, Summand[]] => [path, [{ ...module, scale: 1 }]]))
    }
    for (const [path, summands] of deltas) all.set(path, [...(all.get(path) ?? []), ...summands])
  }
  return all
}

async function load(folder: Folder, manifest: AnyManifest, entry: AdapterEntry): Promise<CompiledAdapter> {
  const adapter = await withFile(folder, entry.file ?? '', (file) => readAdapter(file, manifest))
  if (adapter !== undefined) return adapter
  throw inputError('artifact-invalid', `${folder.name}: the file of adapter ${quote(entry.name)} is missing`)
}
