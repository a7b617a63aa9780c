// An encoder + PEFT adapters → an artifact (docs/artifact-format.md). As `compile` of a decoder, with one graph.
import { coverageOf } from '../adapter/describe.ts'
import { encodeAdapters, writeAdapters } from '../adapter/write.ts'
import { canonicalJson } from '../canonical-json.ts'
import { type CompileInput, copyFile, counter, type Progress, sum } from '../compile.ts'
import {
  type EncoderManifest,
  EncoderManifestSchema,
  type FileEntry,
  MANIFEST_FILE,
  MANIFEST_SCHEMA,
} from '../contract.ts'
import { inputError } from '../errors.ts'
import { groupDeltas } from '../group-deltas.ts'
import { writeFile } from '../hashed-file.ts'
import type { Host, OutFolder } from '../host.ts'
import { encodeModel, OPSET } from '../onnx/encode.ts'
import type { Delta } from '../passes/merge-delta.ts'
import { stackedLinears } from '../read-stack.ts'
import { buildEncoder } from './graph.ts'
import { digestEncoder, type EncoderCheckpoint, openEncoder } from './open.ts'
import { readEncoderAdapters } from './read-adapters.ts'
import { planEncoderWeights, writeEncoderWeights } from './weights.ts'

const MODEL_FILE = 'model.onnx'
/** Copied byte for byte where the base has them. */
const COPIED_FILES = ['tokenizer.json', 'tokenizer_config.json']

/** As `compile`: throws `InputError` before the first byte, and the same input gives the same bytes. */
export async function compileEncoder(
  input: CompileInput,
  out: OutFolder,
  host: Host,
  onProgress: (progress: Progress) => void = () => {},
): Promise<{ id: string; manifest: EncoderManifest }> {
  if (input.quantise !== undefined) {
    throw inputError(
      'config-unsupported',
      `${input.base.name}: the base is an encoder, and only decoders are quantised; leave --quantize out`,
    )
  }
  const checkpoint = await openEncoder(input.base)
  try {
    return await compileOpened(checkpoint, input, out, host, onProgress)
  } finally {
    await checkpoint.close()
  }
}

async function compileOpened(
  checkpoint: EncoderCheckpoint,
  { base, adapters: inputs, target }: CompileInput,
  out: OutFolder,
  host: Host,
  onProgress: (progress: Progress) => void,
): Promise<{ id: string; manifest: EncoderManifest }> {
  const { config, names } = checkpoint
  const adapters = await readEncoderAdapters(inputs, target, checkpoint)
  const baseBytes = sum([...checkpoint.tensors.values()])
  const digest = await digestEncoder(checkpoint, host, counter('read base', baseBytes, onProgress))
  const encoded = encodeAdapters(adapters, target, digest, host)
  const bank = target === 'routed' ? names.linears : []
  const stack = target === 'stacked' ? stackedLinears(adapters, names.linears) : []
  const plan = planEncoderWeights(checkpoint)
  const graph = buildEncoder(checkpoint, plan, { bank, stack })

  const files: FileEntry[] = []
  const deltas = target === 'merged' ? groupDeltas(adapters) : new Map<string, Delta[]>()
  files.push(
    await writeEncoderWeights(checkpoint, plan, deltas, out, host, counter('write weights', sum(plan), onProgress)),
  )
  files.push(await writeFile(out, MODEL_FILE, encodeModel(graph), host))
  const { entries, files: adapterFiles } = await writeAdapters(encoded, target, out, host)
  files.push(...adapterFiles)
  for (const path of COPIED_FILES) files.push(...(await copyFile(base, path, out, host)))

  const { architecture, task, pooling, labels, maxTokens } = config
  const manifest = EncoderManifestSchema.parse({
    schema: MANIFEST_SCHEMA,
    target,
    task,
    base: { digest, architecture },
    outputs: graph.outputs.map(({ name }) => name as EncoderManifest['outputs'][number]),
    ...(pooling === undefined ? {} : { pooling }),
    ...(labels === undefined ? {} : { labels: [...labels] }),
    maxTokens,
    opset: OPSET,
    dtype: 'float32',
    adapters: entries,
    bank: [...bank],
    ...(stack.length === 0 ? {} : { stack }),
    graphs: { model: MODEL_FILE },
    coverage: adapters.flatMap(coverageOf),
    files,
  } satisfies EncoderManifest)
  const { sha256: id } = await writeFile(out, MANIFEST_FILE, new TextEncoder().encode(canonicalJson(manifest)), host)
  return { id, manifest }
}
