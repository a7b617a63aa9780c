// base + PEFT adapters → an artifact (docs/artifact-format.md). Everything is checked first; the manifest comes last.
import { coverageOf } from './adapter/describe.ts'
import { type AdapterInput, readAdapters } from './adapter/read-all.ts'
import { encodeAdapters, writeAdapters } from './adapter/write.ts'
import { canonicalJson } from './canonical-json.ts'
import { digestBase } from './checkpoint/digest.ts'
import { layerLinears } from './checkpoint/names.ts'
import { type Checkpoint, openCheckpoint } from './checkpoint/read.ts'
import { type FileEntry, MANIFEST_FILE, MANIFEST_SCHEMA, type Manifest, ManifestSchema } from './contract.ts'
import { buildGraphs } from './graph/build-graphs.ts'
import { planWeights, storageOf } from './graph/weights.ts'
import { groupDeltas } from './group-deltas.ts'
import { HashedFile, writeFile } from './hashed-file.ts'
import type { Folder, Host, OutFolder } from './host.ts'
import { encodeModel, OPSET } from './onnx/encode.ts'
import type { Delta } from './passes/merge-delta.ts'
import { describeQuantisation } from './quantise/describe.ts'
import type { QuantiseOptions } from './quantise/spec.ts'
import type { LayerError } from './quantise/stream.ts'
import { withFile } from './read-file.ts'
import { readStack, stackedLinears } from './read-stack.ts'
import { CHUNK_BYTES } from './safetensors/stream.ts'
import { writeWeights } from './write-weights.ts'

export interface CompileInput {
  /** A Hugging Face Llama folder. */
  readonly base: Folder
  /** PEFT folders, in any order. With none, the artifact is the base itself; a stack needs one. */
  readonly adapters: readonly AdapterInput[]
  readonly target: Manifest['target']
  /** How the base is stored; float32 without. Adapters are float32 always. */
  readonly quantise?: QuantiseOptions
}

export interface Compiled {
  readonly id: string
  readonly manifest: Manifest
  /** In file order; empty unless quantised. */
  readonly layerErrors: readonly LayerError[]
}

export interface Progress {
  readonly stage: string
  readonly doneBytes: number
  readonly totalBytes: number
}

const MODEL_FILE = 'model.onnx'
const ENGINE_FILE = 'engine.onnx'
const BASE_FILE = 'engine-base.onnx'
/** Copied byte for byte where the base has them. */
const COPIED_FILES = ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja', 'generation_config.json']

/**
 * Writes every file of the artifact into `out`, which the caller makes visible only after this has resolved.
 * Throws `InputError`, before the first byte, with every problem of the base or of the adapters; only a merge that
 * overflows fp32 is found later, while it is written. The same input gives the same bytes.
 */
export async function compile(
  input: CompileInput,
  out: OutFolder,
  host: Host,
  onProgress: (progress: Progress) => void = () => {},
): Promise<Compiled> {
  const checkpoint = await openCheckpoint(input.base)
  try {
    return await compileOpened(checkpoint, input, out, host, onProgress)
  } finally {
    await checkpoint.close()
  }
}

async function compileOpened(
  checkpoint: Checkpoint,
  { base, adapters: inputs, target, quantise }: CompileInput,
  out: OutFolder,
  host: Host,
  onProgress: (progress: Progress) => void,
): Promise<Compiled> {
  const { config } = checkpoint
  const linears = layerLinears(config.architecture)
  const adapters = await (target === 'stacked' ? readStack(inputs, linears) : readAdapters(inputs, target, linears))
  const baseBytes = sum([...checkpoint.tensors.values()])
  const baseDigest = await digestBase(checkpoint, host, counter('read base', baseBytes, onProgress))
  const encoded = encodeAdapters(adapters, target, baseDigest, host)
  const bank = target === 'routed' ? linears : []
  const stack = target === 'stacked' ? stackedLinears(adapters, linears) : []
  const plan = planWeights(config, quantise)
  const graphs = buildGraphs(config, plan, { bank, stack })

  const files: FileEntry[] = []
  const deltas = target === 'merged' ? groupDeltas(adapters) : new Map<string, Delta[]>()
  const onWritten = counter('write weights', sum(plan), onProgress)
  const layerErrors: LayerError[] = []
  const quantising = quantise && { options: quantise, onError: (error: LayerError) => void layerErrors.push(error) }
  files.push(await writeWeights(checkpoint, plan, deltas, out, host, onWritten, quantising))
  files.push(await writeFile(out, MODEL_FILE, encodeModel(graphs.model), host))
  files.push(await writeFile(out, ENGINE_FILE, encodeModel(graphs.engine), host))
  if (graphs.base !== undefined) files.push(await writeFile(out, BASE_FILE, encodeModel(graphs.base), host))
  const { entries, files: adapterFiles } = await writeAdapters(encoded, target, out, host)
  files.push(...adapterFiles)
  for (const path of COPIED_FILES) files.push(...(await copyFile(base, path, out, host)))

  const manifest = ManifestSchema.parse({
    schema: MANIFEST_SCHEMA,
    target,
    base: { digest: baseDigest, architecture: config.architecture, eosTokenIds: [...config.eosTokenIds] },
    opset: OPSET,
    dtype: 'float32',
    ...(quantise && {
      quantisation: describeQuantisation(quantise, storageOf(config, quantise), checkpoint, layerErrors),
    }),
    adapters: entries,
    bank,
    ...(stack.length === 0 ? {} : { stack }),
    graphs: { model: MODEL_FILE, engine: ENGINE_FILE, ...(graphs.base && { base: BASE_FILE }) },
    coverage: adapters.flatMap(coverageOf),
    files,
  } satisfies Manifest)
  const { sha256: id } = await writeFile(out, MANIFEST_FILE, new TextEncoder().encode(canonicalJson(manifest)), host)
  return { id, manifest, layerErrors }
}

export async function copyFile(from: Folder, path: string, out: OutFolder, host: Host): Promise<FileEntry[]> {
  const copied = await withFile(from, path, async (source) => {
    const file = await HashedFile.create(out, path, host)
    for (let at = 0; at < source.size; at += CHUNK_BYTES) {
      await file.write(await source.read(at, Math.min(CHUNK_BYTES, source.size - at)))
    }
    return file.close()
  })
  return copied === undefined ? [] : [copied]
}

export function counter(stage: string, totalBytes: number, onProgress: (progress: Progress) => void) {
  let doneBytes = 0
  return (bytes: number) => {
    doneBytes += bytes
    onProgress({ stage, doneBytes, totalBytes })
  }
}

export function sum(items: readonly { readonly bytes: number }[]): number {
  return items.reduce((total, { bytes }) => total + bytes, 0)
}
