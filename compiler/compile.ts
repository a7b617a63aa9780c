// base + PEFT adapters → an artifact (docs/artifact-format.md). Everything is checked first; the manifest comes last.
import { coverageOf } from './adapter/describe.ts'
import { type AdapterInput, readAdapters } from './adapter/read-all.ts'
import { encodeAdapters, writeAdapters } from './adapter/write.ts'
import { canonicalJson } from './canonical-json.ts'
import { digestBase } from './checkpoint/digest.ts'
import { layerLinears } from './checkpoint/names.ts'
import { type Checkpoint, openCheckpoint } from './checkpoint/read.ts'
import { type FileEntry, MANIFEST_FILE, MANIFEST_SCHEMA, type Manifest, ManifestSchema } from './contract.ts'
import { inputError } from './errors.ts'
import { buildGraphs } from './graph/build-graphs.ts'
import { type Keeping, type PlannedWeight, planWeights, quantisable, storageOf } from './graph/weights.ts'
import { groupDeltas } from './group-deltas.ts'
import { HashedFile, writeFile } from './hashed-file.ts'
import type { Folder, Host, OutFolder } from './host.ts'
import { type Coding, WeightLanes, type WeightLanesInput } from './lanes/weight-lanes.ts'
import type { OpenLanes } from './merge/matrix.ts'
import { encodeModel, OPSET } from './onnx/encode.ts'
import type { Delta } from './passes/merge-delta.ts'
import type { Calibration } from './quantise/calibrate.ts'
import { describeKept, type KeptWeight, planCarry } from './quantise/carry-plan.ts'
import { describeQuantisation } from './quantise/describe.ts'
import type { KeepOptions, QuantiseOptions } from './quantise/spec.ts'
import { codingOf, type LayerError } from './quantise/stream.ts'
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
  readonly quantise?: QuantiseOptions | KeepOptions
  /** Of `rounding: 'gptq'`, which is refused without. */
  readonly calibration?: Calibration
}

export interface Compiled {
  readonly id: string
  readonly manifest: Manifest
  /** In file order; empty unless quantised. */
  readonly layerErrors: readonly LayerError[]
  /** What became of each weight; only where blocks were kept. */
  readonly kept?: ReadonlyMap<string, KeptWeight>
  /** What all weights take as float32. */
  readonly floatBytes: number
}

export interface Progress {
  readonly stage: string
  readonly doneBytes: number
  readonly totalBytes: number
}

/** Of a GGUF whose blocks are kept, what is in halves stays so. */
const HALVES: QuantiseOptions = { method: 'fp16', block: 32, grid: 'symmetric', rounding: 'rtn', keep: [], eight: [] }

const optionsOf = (quantise: CompileInput['quantise']): QuantiseOptions | undefined =>
  quantise?.method === 'keep' ? HALVES : quantise

const MODEL_FILE = 'model.onnx'
const ENGINE_FILE = 'engine.onnx'
const BASE_FILE = 'engine-base.onnx'
const SHARED_FILE = 'engine-shared.onnx'
/** Copied byte for byte where the base has them. */
const COPIED_FILES = ['tokenizer.json', 'tokenizer_config.json', 'chat_template.jinja', 'generation_config.json']

/**
 * Writes every file of the artifact into `out`, which the caller makes visible only after this has resolved.
 * Throws `InputError`, before the first byte, with every problem of the base or of the adapters; only a merge that
 * overflows fp32 is found later, while it is written. The same input gives the same bytes, with lanes or without.
 */
export async function compile(
  input: CompileInput,
  out: OutFolder,
  host: Host,
  onProgress: (progress: Progress) => void = () => {},
  lanes?: OpenLanes,
): Promise<Compiled> {
  const checkpoint = await openCheckpoint(input.base)
  try {
    const { adapters: inputs, target, quantise } = input
    requireCalibration(input)
    const linears = layerLinears(checkpoint.config.architecture)
    const adapters = await (target === 'stacked' ? readStack(inputs, linears) : readAdapters(inputs, target, linears))
    const deltas = target === 'merged' ? groupDeltas(adapters) : new Map<string, Delta[]>()
    const storing = quantise?.method === 'keep' ? keepingOf(checkpoint, quantise, deltas) : quantise
    const planned = { adapters, deltas, storing, plan: planWeights(checkpoint.config, storing) }
    const opened = lanes && (await WeightLanes.open(lanes, lanesFor(checkpoint, planned.plan, optionsOf(quantise))))
    try {
      return await compileOpened(checkpoint, planned, input, out, host, onProgress, opened)
    } finally {
      await opened?.close()
    }
  } finally {
    await checkpoint.close()
  }
}

interface Planned {
  readonly adapters: Awaited<ReturnType<typeof readStack | typeof readAdapters>>
  readonly deltas: ReadonlyMap<string, readonly Delta[]>
  readonly storing: QuantiseOptions | Keeping | undefined
  readonly plan: readonly PlannedWeight[]
}

async function compileOpened(
  checkpoint: Checkpoint,
  { adapters, deltas, storing, plan }: Planned,
  { base, target, quantise, calibration }: CompileInput,
  out: OutFolder,
  host: Host,
  onProgress: (progress: Progress) => void,
  lanes: WeightLanes | undefined,
): Promise<Compiled> {
  const { config } = checkpoint
  const linears = layerLinears(config.architecture)
  const options = optionsOf(quantise)
  const baseBytes = sum([...checkpoint.tensors.values()])
  const baseDigest = await digestBase(checkpoint, host, counter('read base', baseBytes, onProgress), lanes)
  const encoded = encodeAdapters(adapters, target, baseDigest, host)
  const bank = target === 'routed' ? linears : []
  const stack = target === 'stacked' ? stackedLinears(adapters, linears) : []
  const graphs = buildGraphs(config, plan, { bank, stack })

  const files: FileEntry[] = []
  const onWritten = counter('write weights', sum(plan), onProgress)
  const layerErrors: LayerError[] = []
  const onError = (error: LayerError) => void layerErrors.push(error)
  const quantising = options && { options, onError, ...(calibration && { calibration }) }
  files.push(await writeWeights(checkpoint, plan, deltas, out, host, onWritten, lanes, quantising))
  files.push(await writeFile(out, MODEL_FILE, encodeModel(graphs.model), host))
  files.push(await writeFile(out, ENGINE_FILE, encodeModel(graphs.engine), host))
  if (graphs.base !== undefined) files.push(await writeFile(out, BASE_FILE, encodeModel(graphs.base), host))
  if (graphs.shared !== undefined) files.push(await writeFile(out, SHARED_FILE, encodeModel(graphs.shared), host))
  const { entries, files: adapterFiles } = await writeAdapters(encoded, target, out, host)
  files.push(...adapterFiles)
  for (const path of COPIED_FILES) files.push(...(await copyFile(base, path, out, host)))

  const manifest = ManifestSchema.parse({
    schema: MANIFEST_SCHEMA,
    target,
    base: { digest: baseDigest, architecture: config.architecture, eosTokenIds: [...config.eosTokenIds] },
    opset: OPSET,
    dtype: 'float32',
    ...(storing && {
      quantisation:
        storing.method === 'keep'
          ? describeKept(storing, checkpoint, layerErrors)
          : describeQuantisation(storing, storageOf(config, storing), checkpoint, layerErrors, calibration?.digest),
    }),
    adapters: entries,
    bank,
    ...(stack.length === 0 ? {} : { stack }),
    graphs: {
      model: MODEL_FILE,
      engine: ENGINE_FILE,
      ...(graphs.base && { base: BASE_FILE }),
      ...(graphs.shared && { shared: SHARED_FILE }),
    },
    coverage: adapters.flatMap(coverageOf),
    files,
  } satisfies Manifest)
  const { sha256: id } = await writeFile(out, MANIFEST_FILE, new TextEncoder().encode(canonicalJson(manifest)), host)
  const floatBytes = quantise === undefined ? sum(plan) : sum(planWeights(config))
  const kept = storing?.method === 'keep' ? { kept: storing.modules } : {}
  return { id, manifest, layerErrors, floatBytes, ...kept }
}

function requireCalibration({ quantise, calibration }: CompileInput): void {
  const needed = quantise !== undefined && quantise.method !== 'keep' && quantise.rounding === 'gptq'
  if (needed && calibration === undefined) {
    throw inputError('quantise-calibration', 'gptq rounds by the inputs of a calibration text; give one')
  }
}

function keepingOf(
  checkpoint: Checkpoint,
  options: KeepOptions,
  deltas: ReadonlyMap<string, readonly Delta[]>,
): Keeping {
  const modules = planCarry(checkpoint, quantisable(checkpoint.config), options, new Set(deltas.keys()))
  return { method: 'keep', modules, ...(options.activations && { activations: options.activations }) }
}

/** What the plan has done to weights. */
function lanesFor(
  { tensors, redundantHead }: Checkpoint,
  plan: readonly PlannedWeight[],
  options: QuantiseOptions | undefined,
): WeightLanesInput {
  const codings: Coding[] = []
  let turnedBytes = 0
  for (const { from } of plan) {
    if (from.how === 'quantise' && options !== undefined) codings.push(codingOf(from.storage, options))
    if (from.how === 'transpose') turnedBytes = Math.max(turnedBytes, tensors.get(from.tensor)?.bytes ?? 0)
  }
  const all = redundantHead === undefined ? [...tensors.values()] : [...tensors.values(), redundantHead]
  return { dtypes: new Set(all.map(({ dtype }) => dtype)), codings, turnedBytes }
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
