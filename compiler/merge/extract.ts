// Two checkpoints → the LoRA adapter that leads from one towards the other.
import { z } from 'zod'
import { type Factors, requireFinite } from '../combine/combined.ts'
import { MAX_RANK } from '../combine/options.ts'
import { chooseRanks } from '../combine/ranks.ts'
import { writePeft } from '../combine/write-peft.ts'
import { inputError, Problems, quote } from '../errors.ts'
import type { OutFolder } from '../host.ts'
import { readJson } from '../read-file.ts'
import { type FloatTensorSource, isFloatTensor, readFloats } from '../safetensors/stream.ts'
import { leadingPart } from './leading-part.ts'
import type { MergeProgress } from './merge-checkpoint.ts'
import type { Base } from './open-base.ts'

export interface ExtractOptions {
  readonly rank: number
  /** Leaves out what differs but is no linear, instead of refusing. */
  readonly skipOthers?: boolean
  /** As the new adapter calls its base. */
  readonly baseModelNameOrPath: string | null
}

export interface ExtractReport {
  readonly modules: readonly { readonly module: string; readonly rank: number; readonly energyKept: number }[]
  /** Of all differences of linears: Σ ‖B·A‖² / Σ ‖D‖², and √Σ ‖D − B·A‖². */
  readonly energyKept: number
  readonly frobeniusError: number
  /** Names of tensors that differ and are no linears. */
  readonly leftOut: readonly string[]
}

const ConfigJson = z.object({ model_type: z.string().optional(), architectures: z.array(z.string()).nullish() })
/** Their linears are Conv1D, stored [in, out], which a file does not tell from [out, in]. */
const CONV1D_MODELS = ['gpt2', 'openai-gpt', 'imagegpt', 'decision_transformer']
const EMBEDDING =
  /(^|\.)(embed_tokens|wte|wpe|word_embeddings|position_embeddings|token_type_embeddings|embed_in|shared)\./

/**
 * For each linear that differs, D = tuned − base in fp32 and its leading part of rank `rank`, so that base + adapter is
 * as near to `tuned` as that rank allows; the report says how near. Holds two tensors at once. Throws `InputError`
 * where the checkpoints are not of one model, where nothing differs, or where something differs that a LoRA of linears
 * cannot hold.
 */
export async function extractAdapter(
  base: Base,
  tuned: Base,
  options: ExtractOptions,
  out: OutFolder,
  onProgress: (progress: MergeProgress) => void = () => {},
): Promise<ExtractReport> {
  const { rank } = options
  if (!Number.isSafeInteger(rank) || rank < 1 || rank > MAX_RANK) {
    throw inputError('adapter-rank', `the rank is ${rank}; give a whole number from 1 to ${MAX_RANK}`)
  }
  const { architectures } = await readConfig(base)
  const pairs = pairTensors(base, tuned)
  const totalBytes = pairs.reduce((sum, [before]) => sum + before.bytes, 0)
  const modules = new Map<string, Factors>()
  const report: { module: string; rank: number; energyKept: number }[] = []
  const leftOut: string[] = []
  const total = { energy: 0, lost: 0 }
  let doneBytes = 0
  for (const [before, after] of pairs) {
    const difference = await subtract(before, after)
    doneBytes += before.bytes
    if (difference !== undefined && !isLinear(before)) leftOut.push(before.name)
    else if (difference !== undefined) {
      const module = before.name.slice(0, -'.weight'.length)
      const [rows = 0, columns = 0] = before.shape
      const { factors, truncation } = leadingPart(difference, rows, columns, rank)
      requireFinite(factors, module)
      modules.set(module, factors)
      report.push({ module, rank: factors.r, energyKept: 1 - truncation.lost / truncation.energy })
      total.energy += truncation.energy
      total.lost += truncation.lost
    }
    onProgress({ stage: 'extract', doneBytes, totalBytes })
  }
  refuseLeftOut(leftOut, options, tuned)
  if (modules.size === 0) throw inputError('tensor-missing', `no linear of ${tuned.name} differs from ${base.name}`)
  const recipe = { method: 'extract', rank } as const
  const taskType = architectures?.some((name) => name.endsWith('ForCausalLM')) ? 'CAUSAL_LM' : null
  const { baseModelNameOrPath } = options
  await writePeft({ modules, recipe, ...chooseRanks(modules) }, { baseModelNameOrPath, taskType, weights: {} }, out)
  return {
    modules: report,
    energyKept: 1 - total.lost / total.energy,
    frobeniusError: Math.sqrt(total.lost),
    leftOut,
  }
}

async function readConfig(base: Base): Promise<z.infer<typeof ConfigJson>> {
  const config = ConfigJson.safeParse((await readJson(base.folder, 'config.json')) ?? {}).data ?? {}
  if (config.model_type !== undefined && CONV1D_MODELS.includes(config.model_type)) {
    throw inputError(
      'config-unsupported',
      `${base.name}: a ${quote(config.model_type)} stores its linears transposed; extracting from it is not supported`,
    )
  }
  return config
}

/** In the order of the base's files. */
function pairTensors(base: Base, tuned: Base): [FloatTensorSource, FloatTensorSource][] {
  const problems = new Problems()
  const pairs: [FloatTensorSource, FloatTensorSource][] = []
  for (const [name, before] of base.tensors) {
    const after = tuned.tensors.get(name)
    if (after === undefined) {
      problems.add('tensor-missing', `${tuned.name}: tensor ${quote(name)} of ${base.name} is missing`)
    } else if (after.shape.join() !== before.shape.join()) {
      const shapes = `[${after.shape}], not [${before.shape}] as in ${base.name}`
      problems.add('tensor-shape', `${tuned.name}: tensor ${quote(name)} is ${shapes}; they are not of one model`)
    } else if (isFloatTensor(before) && isFloatTensor(after)) pairs.push([before, after])
  }
  for (const name of tuned.tensors.keys()) {
    if (base.tensors.has(name)) continue
    problems.add('tensor-unknown', `${tuned.name}: tensor ${quote(name)} is not in ${base.name}`)
  }
  problems.throwIfAny()
  return pairs
}

function isLinear({ name, shape }: FloatTensorSource): boolean {
  return shape.length === 2 && name.endsWith('.weight') && !EMBEDDING.test(name)
}

/** tuned − base, or `undefined` where they are equal. */
async function subtract(before: FloatTensorSource, after: FloatTensorSource): Promise<Float32Array | undefined> {
  const from = await readFloats(before)
  const difference = new Float32Array(await readFloats(after))
  let differs = false
  for (let i = 0; i < from.length; i += 1) {
    const value = (difference[i] as number) - (from[i] as number)
    difference[i] = value
    // NaN is not 0 either.
    if (value !== 0) differs = true
    if (value - value !== 0) {
      throw inputError('tensor-not-finite', `${quote(before.name)} holds NaN or infinity in one of the checkpoints`)
    }
  }
  return differs ? difference : undefined
}

function refuseLeftOut(leftOut: readonly string[], { skipOthers = false }: ExtractOptions, tuned: Base): void {
  if (skipOthers || leftOut.length === 0) return
  const problems = new Problems()
  for (const name of leftOut) {
    problems.add(
      'adapter-target',
      `${tuned.name}: ${quote(name)} differs too, but a LoRA of linears cannot hold it; leave it out with --skip-others`,
    )
  }
  problems.throwIfAny()
}
