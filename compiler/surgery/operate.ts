// Exported ONNX + PEFT adapters → the same files with the adapters in them: routed, stacked or merged (docs/surgery.md).
// Nothing is written before every adapter has found all of its linears in every file.

import { describeAdapter } from '../adapter/describe.ts'
import { adapterPath, encodeAdapter } from '../adapter/encode.ts'
import { type AdapterInput, readAdapters, type WeightedAdapter } from '../adapter/read-all.ts'
import { openWeights } from '../adapter/weights-file.ts'
import { canonicalJson } from '../canonical-json.ts'
import type { AdapterEntry, FileEntry, Linear, Manifest } from '../contract.ts'
import { inputError, quote } from '../errors.ts'
import { groupDeltas } from '../group-deltas.ts'
import { digestBytes, HashedFile, writeFile } from '../hashed-file.ts'
import type { Folder, Host, OutFolder } from '../host.ts'
import { applyEdits } from '../onnx/edit.ts'
import { MAX_ONNX_BYTES } from '../onnx/read.ts'
import { allGraphs, readGraph, type SurgeryModel } from '../onnx/read-graph.ts'
import { withFile } from '../read-file.ts'
import { readStack, weighted } from '../read-stack.ts'
import { CHUNK_BYTES } from '../safetensors/stream.ts'
import { attachPaths } from './attach.ts'
import { ambiguous, findLinears, refuseAmbiguous, refuseMissing } from './find-linears.ts'
import { spellAs } from './fused.ts'
import type { Evidence, Site } from './linear.ts'
import { type DataPatch, mergeWeights, type Rounding } from './merge-weights.ts'
import type { ProbeHost } from './probe-session.ts'
import { type SurgeryVerification, verifySurgery } from './verify-surgery.ts'

export const SURGERY_FILE = 'surgery.json'
export const SURGERY_SCHEMA = 'sidepath.surgery/1'

export interface SurgeryInput {
  readonly base: Folder
  /** The ONNX files of one model in `base`. */
  readonly files: readonly string[]
  readonly adapters: readonly AdapterInput[]
  readonly target: Manifest['target']
}

/** One linear of one file that an adapter changes, and how it was found. */
export type SurgeryCoverage = {
  readonly adapter: string
  readonly tensors: readonly string[]
  readonly module: string
  readonly file: string
  readonly op: string
  readonly node: string
  readonly weight: string
  readonly evidence: Evidence
  /** Of a fused linear: first column and number of columns of the node that are the module's, and what says so. */
  readonly columns?: { readonly from: number; readonly width: number; readonly by: string }
}

export type SurgeryReport = {
  readonly schema: typeof SURGERY_SCHEMA
  readonly target: Manifest['target']
  /** SHA-256 over the names and digests of the model's files. */
  readonly base: { readonly digest: string; readonly files: readonly FileEntry[] }
  readonly adapters: readonly AdapterEntry[]
  /** Those that some adapter changes: they have inputs in the graphs, unless merged. */
  readonly linears: readonly Linear[]
  readonly coverage: readonly SurgeryCoverage[]
  /** Of a merge into quantised linears. */
  readonly roundings?: readonly Rounding[]
  /** Absent where nothing was run. */
  readonly verification?: SurgeryVerification
  /** Why nothing was run, though it was asked for. */
  readonly notRun?: string
  readonly files: readonly FileEntry[]
}

/**
 * Writes the files and `surgery.json` into `out`. Throws `InputError` before the first byte; with `probes`, what was written
 * is run beside the original, and the figures are in the report, or in the sentence of an `InputError`.
 */
export async function operate(
  input: SurgeryInput,
  out: OutFolder,
  host: Host,
  probes?: ProbeHost,
): Promise<SurgeryReport> {
  const { base, target } = input
  const files = input.files.toSorted()
  const models = await Promise.all(files.map((file) => readModel(base, file)))
  const locations = await checkData(models, base)
  const spoken = await namesOf(input.adapters)
  const speaks = (part: string) => spoken.some((name) => name.includes(part))
  const found = models.map((model) => ({ model, sites: spellAs(findLinears(model), speaks) }))
  const linears = commonLinears(found.flatMap(({ sites }) => sites))
  const adapters = await (target === 'stacked'
    ? readStack(input.adapters, linears)
    : readAdapters(input.adapters, target, linears))
  if (adapters.length === 0) throw inputError('adapter-name', 'surgery needs at least one adapter; name one')
  const modules = new Set(adapters.flatMap((adapter) => adapter.modules.map(({ linear }) => linear.module)))
  const targeted = found.map(({ model, sites }) => {
    refuseAmbiguous(sites, modules)
    const wanted = sites.filter(({ module }) => modules.has(module))
    refuseMissing(model.file, wanted, modules)
    return { model, sites: wanted }
  })

  const deltas = groupDeltas(adapters)
  const patches: DataPatch[] = []
  const edited = new Map<string, Uint8Array>()
  const roundings: Rounding[] = []
  for (const { model, sites } of targeted) {
    if (target === 'merged') {
      const merged = await mergeWeights(model, sites, deltas, base)
      patches.push(...merged.patches)
      roundings.push(...merged.roundings)
      edited.set(model.file, applyEdits(model.bytes, model.file, merged.edits))
    } else edited.set(model.file, applyEdits(model.bytes, model.file, attachPaths(model, sites, target)))
  }
  for (const [file, bytes] of edited) {
    if (bytes.length > MAX_ONNX_BYTES) {
      throw inputError('file-too-large', `${file} would have ${bytes.length} bytes; protobuf holds ${MAX_ONNX_BYTES}`)
    }
  }

  const sources: FileEntry[] = models.map(({ file, bytes }) => ({
    path: file,
    bytes: bytes.length,
    sha256: digestBytes(bytes, host),
  }))
  const written: FileEntry[] = []
  for (const location of locations) {
    const { source, copy } = await copyData(base, location, patchesOf(patches, location), out, host)
    sources.push(source)
    written.push(copy)
  }
  const digest = digestBytes(new TextEncoder().encode(canonicalJson(sources)), host)
  for (const [file, bytes] of edited) written.push(await writeFile(out, file, bytes, host))
  const entries: AdapterEntry[] = []
  for (const adapter of adapters) {
    const bytes = encodeAdapter(target === 'stacked' ? weighted(adapter) : adapter, digest)
    const id = digestBytes(bytes, host)
    if (target !== 'merged') written.push(await writeFile(out, adapterPath(id), bytes, host))
    entries.push(describeAdapter(adapter, id, target === 'merged' ? undefined : adapterPath(id)))
  }
  const changed = linears.filter(({ module }) => modules.has(module))
  const rounding = Math.max(0, ...roundings.map(({ relativeError }) => relativeError))
  const operated = { target, digest, linears: changed, targeted, adapters, entries, locations, rounding }
  const all = found.map(({ sites }) => sites)
  const notRun = probes && whyNotRun(sources, probes)
  const verification =
    probes && notRun === undefined ? await verifySurgery({ ...operated, found: all }, probes) : undefined
  const report: SurgeryReport = {
    schema: SURGERY_SCHEMA,
    target,
    base: { digest, files: sources },
    adapters: entries,
    linears: changed,
    coverage: targeted.flatMap(({ sites }) => adapters.flatMap((adapter) => coverage(adapter, sites))),
    ...(roundings.length > 0 && { roundings }),
    ...(verification && { verification }),
    ...(notRun && { notRun }),
    files: written,
  }
  await writeFile(out, SURGERY_FILE, new TextEncoder().encode(canonicalJson(report)), host)
  return report
}

function whyNotRun(sources: readonly FileEntry[], { maxBytes }: ProbeHost): string | undefined {
  const total = sources.reduce((sum, { bytes }) => sum + bytes, 0)
  if (maxBytes === undefined || total <= maxBytes) return undefined
  return (
    `not run against its sources: the model has ${total} bytes, above ${maxBytes}, and running its forms takes several ` +
    'times that; --verify graphs runs them'
  )
}

async function readModel(base: Folder, file: string): Promise<SurgeryModel> {
  const model = await withFile(base, file, async (source) => {
    if (source.size > MAX_ONNX_BYTES) {
      throw inputError('file-too-large', `${source.name}: ${source.size} bytes; at most ${MAX_ONNX_BYTES} are read`)
    }
    return readGraph(await source.read(0, source.size), file)
  })
  if (model === undefined) throw inputError('file-missing', `${base.name}: there is no ${quote(file)}`)
  return model
}

/** The data files, each of them long enough for what lies in it. */
async function checkData(models: readonly SurgeryModel[], base: Folder): Promise<string[]> {
  const ends = new Map<string, { end: number; tensor: string }>()
  for (const model of models) {
    for (const { initializers } of allGraphs(model.graph)) {
      for (const { name, external } of initializers.values()) {
        if (external === undefined) continue
        const end = external.offset + external.length
        if (end > (ends.get(external.location)?.end ?? -1)) ends.set(external.location, { end, tensor: name })
      }
    }
  }
  for (const [location, { end, tensor }] of ends) {
    const size = await withFile(base, location, async (source) => source.size)
    if (size === undefined) throw inputError('file-missing', `${base.name}: there is no ${quote(location)}`)
    if (end <= size) continue
    throw inputError('onnx-invalid', `${quote(tensor)} ends at byte ${end} of ${quote(location)}, which has ${size}`)
  }
  return [...ends.keys()].toSorted()
}

/** Of all tensors of the adapters, as their files spell them. */
async function namesOf(adapters: readonly AdapterInput[]): Promise<string[]> {
  const files = await Promise.all(
    adapters.map(({ name, folder }) => openWeights(folder, `adapter ${quote(name)}`).catch(() => undefined)),
  )
  // What cannot be opened is refused, with all that is wrong with it, where the adapters are read.
  return files.flatMap((file) => (file === undefined ? [] : [...file.tensors.keys()]))
}

/** In the order of the first file. One module has one size in all files and branches. */
function commonLinears(sites: readonly Site[]): Linear[] {
  const first = new Map<string, Site>()
  for (const site of sites) {
    const other = first.get(site.module)
    if (other === undefined) first.set(site.module, site)
    else if (other.in !== site.in || other.moduleOut !== site.moduleOut) throw ambiguous(other, site)
  }
  return [...first.values()].map(({ module, in: inSize, moduleOut }) => ({ module, in: inSize, out: moduleOut }))
}

/** In file order. Files of one model may share a tensor: then both say the same of it. */
function patchesOf(patches: readonly DataPatch[], location: string): DataPatch[] {
  const sorted = patches.filter((patch) => patch.location === location).sort((a, b) => a.offset - b.offset)
  return sorted.filter((patch, index) => {
    const before = sorted[index - 1]
    if (before === undefined || before.offset + before.bytes.length <= patch.offset) return true
    if (before.offset === patch.offset && before.module === patch.module) return false
    throw inputError(
      'onnx-unsupported',
      `${quote(location)}: ${before.module} and ${patch.module} share bytes from ${patch.offset} on; take compile`,
    )
  })
}

async function copyData(
  base: Folder,
  path: string,
  patches: readonly DataPatch[],
  out: OutFolder,
  host: Host,
): Promise<{ source: FileEntry; copy: FileEntry }> {
  const result = await withFile(base, path, async (source) => {
    const hash = host.sha256()
    const file = await HashedFile.create(out, path, host)
    for (let at = 0; at < source.size; at += CHUNK_BYTES) {
      const chunk = await source.read(at, Math.min(CHUNK_BYTES, source.size - at))
      hash.update(chunk)
      for (const { offset, bytes } of patches) {
        const from = Math.max(at, offset)
        const to = Math.min(at + chunk.length, offset + bytes.length)
        if (from < to) chunk.set(bytes.subarray(from - offset, to - offset), from - at)
      }
      await file.write(chunk)
    }
    return { source: { path, bytes: source.size, sha256: hash.hex() }, copy: await file.close() }
  })
  if (result === undefined) throw inputError('file-missing', `${base.name}: there is no ${quote(path)}`)
  return result
}

function coverage(adapter: WeightedAdapter, sites: readonly Site[]): SurgeryCoverage[] {
  const byModule = new Map(adapter.modules.map((module) => [module.linear.module, module]))
  return sites.flatMap((site) => {
    const { module, file, node, weight, evidence, columns, fused } = site
    const tensors = byModule.get(module)?.tensors
    if (tensors === undefined) return []
    const found = { module, file, op: node.op, node: node.name, weight: weight.name, evidence }
    const cut = fused === undefined ? {} : { columns: { from: columns.nodeFrom, width: columns.width, by: fused } }
    return [{ adapter: adapter.name, tensors, ...found, ...cut }]
  })
}
