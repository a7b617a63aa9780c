// `sidepath compile` and `sidepath merge`: folders in, an artifact out, all or nothing.
import { readdir, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { type Compiled, compile } from '../compiler/compile.ts'
import { compileAny } from '../compiler/compile-any.ts'
import { type AnyManifest, isEncoder, MANIFEST_FILE, type Manifest } from '../compiler/contract.ts'
import type { KeptWeight } from '../compiler/quantise/carry-plan.ts'
import type { KeepOptions, QuantiseOptions } from '../compiler/quantise/spec.ts'
import { readAnyArtifact } from '../compiler/read-artifact.ts'
import { VERIFICATION_FILE, type Verification } from '../compiler/verify/findings.ts'
import { nodeHost, openFolder, stageFolder } from '../runtime/disk.ts'
import { wasmLanes } from '../runtime/wasm-lanes.ts'
import { type AdapterSpec, parseAdapterSpec, requireFolder } from './adapter-spec.ts'
import { type OpenCalibration, openCalibration } from './calibrate.ts'
import { UserError } from './fail.ts'
import { summariseKept } from './kept.ts'
import { onnxFiles } from './onnx-files.ts'
import { openBaseFolder } from './open-base.ts'
import { startProgress } from './progress.ts'
import {
  measureQuantisation,
  parseQuantise,
  type QuantisationReport,
  type QuantiseFlags,
  summariseQuantisation,
} from './quantise.ts'
import { table } from './table.ts'
import { MAX_RUN_BYTES, runVerification, summariseVerification } from './verification.ts'

export interface CompileOptions extends QuantiseFlags {
  readonly base: string
  readonly adapter?: readonly string[]
  readonly out: string
  /** Of `compile`; its default is routed. */
  readonly target?: Manifest['target']
  /** `false`, or how: true and `auto` alike. */
  readonly verify?: boolean | 'auto' | 'graphs' | 'files'
  readonly json?: boolean
}

export async function compileCommand(verb: Manifest['target'], options: CompileOptions): Promise<void> {
  const target = options.target ?? verb
  const specs = (options.adapter ?? []).map(parseAdapterSpec)
  if (target === 'routed' && specs.some(({ weight }) => weight !== 1)) {
    throw new UserError('a routed artifact takes adapters at weight 1; a weight is for `merge` or `--target stacked`.')
  }
  const quantise = parseQuantise(options)
  const onnx = await onnxFiles(options.base)
  if (onnx !== undefined) {
    if (quantise !== undefined) {
      throw new UserError(
        'an exported ONNX model is quantised as it is; leave --quantize out, or give the Hugging Face folder that it came from.',
      )
    }
    await (await import('./surgery.ts')).surgeryCommand({ ...onnx, adapters: specs, target }, options)
    return
  }
  await requireFree(options.out)
  const started = performance.now()
  const { id, manifest, verification, quantisation, kept } = await compileToFolder(
    {
      base: options.base,
      adapters: specs,
      target,
      verify: options.verify ?? true,
      ...(quantise && { quantise }),
      ...(options.evalText !== undefined && { evalText: options.evalText }),
      ...(options.calibration !== undefined && { calibration: options.calibration }),
    },
    options.out,
    !options.json,
  )
  const seconds = (performance.now() - started) / 1000
  const out = resolve(options.out)
  const stored =
    quantisation === undefined || isEncoder(manifest) ? '' : `\n${summariseQuantisation(manifest, quantisation)}`
  const blocks = kept === undefined ? '' : `\n${summariseKept(kept)}`
  const checked = verification === undefined ? '' : `\n${summariseVerification(verification)}`
  process.stdout.write(
    options.json
      ? `${JSON.stringify({ id, out, seconds, manifest, ...(verification && { verification }), ...(quantisation && { quantisation }) })}\n`
      : `${summary(id, manifest, out, seconds)}${blocks}${stored}${checked}\n`,
  )
}

interface FolderInput {
  readonly base: string
  readonly adapters: readonly AdapterSpec[]
  readonly target: Manifest['target']
  /**
   * Check what was made, and emit nothing where a bound is exceeded: `graphs` are run against the sources, `files` are
   * hashed; true decides by the size of the weights.
   */
  readonly verify?: boolean | 'auto' | 'graphs' | 'files'
  readonly quantise?: QuantiseOptions | KeepOptions
  /** Of a quantised artifact that is verified: what its perplexity is measured on. */
  readonly evalText?: string
  /** Of gptq: the text that it goes by. */
  readonly calibration?: string
}

/**
 * Compiles into a staging folder and renames it to `out`, which a kill at any moment leaves as it was.
 * An `out` that already holds this very artifact is left alone.
 */
export async function compileToFolder(
  input: FolderInput,
  out: string | ((id: string) => string),
  showProgress: boolean,
): Promise<{
  id: string
  manifest: AnyManifest
  path: string
  verification?: Verification
  quantisation?: QuantisationReport
  kept?: ReadonlyMap<string, KeptWeight>
}> {
  const base = await openBaseFolder(input.base)
  for (const { name, path } of input.adapters) await requireFolder(path, `adapter "${name}"`)
  const staged = await stageFolder(typeof out === 'string' ? out : out('new'))
  const progress = startProgress(showProgress)
  const interrupted = () => {
    progress.stop()
    void staged.discard().finally(() => process.exit(130))
  }
  process.once('SIGINT', interrupted)
  process.once('SIGTERM', interrupted)
  let calibrated: OpenCalibration | undefined
  try {
    if (input.calibration !== undefined) {
      calibrated = await openCalibration(base, input.calibration, staged.path)
    }
    const result = await compileAny(
      {
        base,
        adapters: input.adapters.map(({ name, path, weight }) => ({ name, folder: openFolder(path), weight })),
        target: input.target,
        ...(input.quantise && { quantise: input.quantise }),
        ...(calibrated && { calibration: calibrated.calibration }),
      },
      staged,
      nodeHost,
      ({ stage, doneBytes, totalBytes }) => progress.update(stage, doneBytes, totalBytes),
      wasmLanes(),
    )
    await calibrated?.close()
    calibrated = undefined
    progress.stop()
    const { id, manifest } = result
    const filesOnly = whyNotRun(input.verify, 'layerErrors' in result ? result.floatBytes : 0)
    const quantisation =
      input.verify && input.quantise && 'layerErrors' in result
        ? await measureStaged(input, staged, result, filesOnly === undefined)
        : undefined
    const verification = input.verify
      ? await verifyStaged(input, staged, isEncoder(manifest), showProgress, quantisation, filesOnly)
      : undefined
    const path = typeof out === 'string' ? out : out(result.id)
    const there = await artifactIdAt(path)
    if (there === undefined) await staged.commit(path)
    else if (there !== result.id) {
      throw new UserError(
        `--out "${path}" holds another artifact, ${there.slice(0, 12)}…; the new one is ${result.id.slice(0, 12)}…. ` +
          'Choose another folder or delete that one.',
      )
    }
    const kept = 'kept' in result && result.kept !== undefined ? { kept: result.kept } : {}
    return { id, manifest, path, ...kept, ...(verification && { verification }), ...(quantisation && { quantisation }) }
  } finally {
    progress.stop()
    process.off('SIGINT', interrupted)
    process.off('SIGTERM', interrupted)
    await calibrated?.close()
    await staged.discard()
  }
}

/** `floatBytes`: of the weights as float32. */
function whyNotRun(verify: FolderInput['verify'], floatBytes: number): string | undefined {
  if (verify === 'files') return 'the graphs were not run, as asked; sidepath verify runs them'
  if (verify === 'graphs' || floatBytes <= MAX_RUN_BYTES) return undefined
  const size = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`
  return (
    `the graphs were not run: the weights take ${size(floatBytes)} as float32, above ${size(MAX_RUN_BYTES)}, and running ` +
    'them several times that; --verify graphs, or sidepath verify, runs them'
  )
}

/** What quantisation costs, against the same artifact in float32, which is made for the purpose and thrown away. */
async function measureStaged(
  { base, adapters, target, evalText }: FolderInput,
  staged: Awaited<ReturnType<typeof stageFolder>>,
  compiled: Compiled,
  runs: boolean,
): Promise<QuantisationReport> {
  if (!runs) return measureQuantisation(staged.path, compiled, evalText, undefined)
  const floating = await stageFolder(join(staged.path, 'float'))
  try {
    return await measureQuantisation(staged.path, compiled, evalText, async () => {
      const folders = adapters.map(({ name, path, weight }) => ({ name, folder: openFolder(path), weight }))
      await compile(
        { base: await openBaseFolder(base), adapters: folders, target },
        floating,
        nodeHost,
        () => {},
        wasmLanes(),
      )
      return floating.path
    })
  } finally {
    await floating.discard()
  }
}

/** Throws where a bound is exceeded; writes the figures beside the manifest, which does not cover them, where none is. */
async function verifyStaged(
  { base, adapters, target }: FolderInput,
  staged: Awaited<ReturnType<typeof stageFolder>>,
  isOfEncoder: boolean,
  showProgress: boolean,
  quantisation: QuantisationReport | undefined,
  filesOnly: string | undefined,
): Promise<Verification> {
  const sources = {
    adapters: adapters.map(({ name, path }) => ({ name, folder: openFolder(path) })),
    // A merged artifact is compared with its base; what else there is keeps the base, which was hashed a moment ago.
    // An encoder's adapters may hold a head of their own, which is a change of the base's.
    ...((target === 'merged' || isOfEncoder) && adapters.length > 0 ? { base: await openBaseFolder(base) } : {}),
  }
  // What a signal leaves of the temporary folders goes with the staging folder.
  const input = { artifact: staged.path, sources, scratch: staged.path, ...(filesOnly && { filesOnly }) }
  const verification = await runVerification(input, showProgress)
  if (!verification.ok) {
    throw new UserError(
      `${verification.problems.join('\n')}\nnothing was written; --no-verify writes it all the same, unchecked.`,
    )
  }
  const file = await staged.create(VERIFICATION_FILE)
  await file.write(
    new TextEncoder().encode(
      `${JSON.stringify({ ...verification, ...(quantisation && { quantisation }) }, null, 2)}\n`,
    ),
  )
  await file.close()
  return verification
}

/** An output that is a file, or a folder with anything but an artifact in it, is not ours to touch. */
async function requireFree(out: string): Promise<void> {
  const there = await stat(out).catch(() => undefined)
  if (there === undefined) return
  if (!there.isDirectory()) throw new UserError(`--out "${out}" is a file; choose a folder that does not exist yet.`)
  const entries = await readdir(out)
  if (entries.length > 0 && !entries.includes(MANIFEST_FILE)) {
    throw new UserError(`--out "${out}" is not empty and is not an artifact; choose a folder that does not exist yet.`)
  }
}

async function artifactIdAt(path: string): Promise<string | undefined> {
  const entries: string[] = await readdir(path).catch(() => [])
  return entries.includes(MANIFEST_FILE) ? (await readAnyArtifact(openFolder(path), nodeHost)).id : undefined
}

function summary(id: string, manifest: AnyManifest, out: string, seconds: number): string {
  const bytes = manifest.files.reduce((sum, file) => sum + file.bytes, 0)
  const lines = [
    `${manifest.target} artifact ${id}`,
    `${(bytes / 1e6).toFixed(1)} MB in ${manifest.files.length + 1} files, ${seconds.toFixed(1)} s → ${out}`,
  ]
  if (manifest.adapters.length > 0) {
    const rows = manifest.adapters.map((adapter) => {
      const tensors = manifest.coverage.filter((line) => line.adapter === adapter.name).length
      const scalings = [...new Set(Object.values(adapter.modules).map(({ scaling }) => scaling.toPrecision(4)))]
      return [
        adapter.weight === 1 ? adapter.name : `${adapter.name}*${adapter.weight}`,
        String(adapter.r),
        `${scalings.slice(0, 3).join(', ')}${adapter.useRslora ? ' (rsLoRA)' : ''}`,
        `${tensors} of ${tensors}`,
        String(Object.keys(adapter.modules).length),
        adapter.digest.slice(0, 12),
      ]
    })
    lines.push('', table(['adapter', 'r', 'scaling', 'tensors used', 'modules', 'digest'], rows))
  }
  return lines.join('\n')
}
