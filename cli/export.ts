// `sidepath export`: an adapter of an artifact, or all of a stack, as ONNX Runtime's .onnx_adapter file.
import { open, rename, rm, stat } from 'node:fs/promises'
import { dirname, resolve } from 'node:path'
import type { AnyManifest, Linear } from '../compiler/contract.ts'
import { exportOnnxAdapter, type RoutedModule } from '../compiler/onnx-adapter/export.ts'
import { readAnyArtifact, verifyFiles } from '../compiler/read-artifact.ts'
import type { Modules } from '../compiler/verify/side-path.ts'
import { loadSubject, type Subject, wholeStack } from '../compiler/verify/subjects.ts'
import { makeFolder, nodeHost, openFolder } from '../runtime/disk.ts'
import { requireFolder } from './adapter-spec.ts'
import { UserError } from './fail.ts'

export interface ExportOptions {
  readonly artifact: string
  readonly adapter?: string
  readonly out: string
  readonly json?: boolean
}

export async function exportCommand({ artifact, adapter, out, json }: ExportOptions): Promise<void> {
  await requireFolder(artifact, 'artifact')
  if ((await stat(out).catch(() => undefined)) !== undefined) {
    throw new UserError(`--out "${out}" exists; choose a file that does not.`)
  }
  const folder = openFolder(artifact)
  const { manifest } = await readAnyArtifact(folder, nodeHost)
  await verifyFiles(folder, manifest, nodeHost)
  const subject = await choose(artifact, manifest, adapter)
  const modules = shapesOf(manifest, subject.modules)
  const bytes = exportOnnxAdapter(modules)
  await writeWhole(resolve(out), bytes)
  const result = { out: resolve(out), adapter: subject.name, bytes: bytes.length, modules: modules.size }
  const feeds =
    manifest.target === 'stacked'
      ? 'It feeds the low-rank inputs of model.onnx of this artifact.'
      : 'It feeds graphs whose inputs are <module>.lora_A.weight and .lora_B.weight: a stacked artifact, or one of Olive.'
  process.stdout.write(
    json
      ? `${JSON.stringify(result)}\n`
      : `${subject.name}: ${modules.size} modules, ${bytes.length} bytes → ${result.out}\n${feeds}\n`,
  )
}

async function choose(artifact: string, manifest: AnyManifest, adapter: string | undefined): Promise<Subject> {
  const folder = openFolder(artifact)
  if (manifest.target === 'merged') {
    throw new UserError(`"${artifact}" is merged: it holds no adapters; export from a routed or a stacked artifact.`)
  }
  const names = manifest.adapters.map(({ name }) => name).join(', ') || 'none'
  if (adapter === undefined) {
    if (manifest.target === 'stacked') return wholeStack(folder, manifest)
    throw new UserError(`--adapter is needed for a routed artifact; it has: ${names}.`)
  }
  const entry = manifest.adapters.find(({ name }) => name === adapter)
  if (entry === undefined)
    throw new UserError(`--adapter "${adapter}": the artifact has no such one; it has: ${names}.`)
  return loadSubject(folder, manifest, entry)
}

/** A stacked graph wants every input: a module that the adapter lacks is zeros of rank 1. */
function shapesOf({ bank, stack }: AnyManifest, modules: Modules): Map<string, RoutedModule> {
  const shaped = new Map<string, RoutedModule>()
  for (const { module, in: inSize, out } of stack ?? bank) {
    const found = modules.get(module)
    if (found !== undefined) shaped.set(module, { ...found, in: inSize, out })
    else if (stack !== undefined) shaped.set(module, zeros({ module, in: inSize, out }))
  }
  return shaped
}

function zeros({ in: inSize, out }: Linear): RoutedModule {
  return { r: 1, A: new Float32Array(inSize), B: new Float32Array(out), in: inSize, out }
}

/** All of the file or none of it. */
async function writeWhole(path: string, bytes: Uint8Array): Promise<void> {
  await makeFolder(dirname(path))
  const partial = `${path}.partial`
  const handle = await open(partial, 'wx')
  try {
    await handle.writeFile(bytes)
    await handle.sync()
    await handle.close()
    await rename(partial, path)
  } catch (error) {
    await handle.close().catch(() => {})
    await rm(partial, { force: true })
    throw error
  }
}
