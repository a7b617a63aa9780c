// Reads a PEFT folder against a base: hostile until every tensor has its place and every target its tensors.
import type { Linear } from '../contract.ts'
import { inputError, Problems, quote } from '../errors.ts'
import type { Folder } from '../host.ts'
import { withFile } from '../read-file.ts'
import { firstNonFinite } from '../safetensors/decode.ts'
import { readHeader, type StoredTensor } from '../safetensors/read.ts'
import { type FloatTensorSource, readFloats } from '../safetensors/stream.ts'
import { checkTargets } from './check-targets.ts'
import { type AdapterConfig, readAdapterConfig } from './config.ts'
import { type Pair, pairTensors } from './pair-tensors.ts'
import { checkPatterns, lookUp } from './patterns.ts'

const WEIGHTS_FILE = 'adapter_model.safetensors'
const PICKLE_FILE = 'adapter_model.bin'
/** Rank 256 on every linear of a 70B base takes less. */
const MAX_WEIGHTS_BYTES = 16 * 1024 ** 3

export interface AdapterModule {
  readonly linear: Linear
  readonly r: number
  /** s = lora_alpha / r, or lora_alpha / √r with rsLoRA; not yet in `B`. */
  readonly scaling: number
  /** Aᵀ, row-major [in, r]. */
  readonly A: Float32Array
  /** Bᵀ, row-major [r, out]. */
  readonly B: Float32Array
  /** The tensors of the file that this module used. */
  readonly tensors: readonly [string, string]
}

export interface Adapter {
  readonly name: string
  readonly loraAlpha: number
  readonly useRslora: boolean
  /** In the order of the base's graph. */
  readonly modules: readonly AdapterModule[]
}

/**
 * `linears`: those of the base that an adapter may change. Throws one `InputError` with every problem of the adapter:
 * options that are not understood, tensors without a place or a partner, ranks that contradict the config, targets
 * without tensors, modules of another base, NaN.
 */
export async function readAdapterFolder(name: string, folder: Folder, linears: readonly Linear[]): Promise<Adapter> {
  const about = `adapter "${name}"`
  const problems = new Problems()
  const config = await problems.collect(() => readAdapterConfig(folder, about, problems))
  const modules = await problems.collect(async () => {
    const read = await withFile(folder, WEIGHTS_FILE, async (file) => {
      if (file.size > MAX_WEIGHTS_BYTES) {
        throw inputError(
          'file-too-large',
          `${about}: ${file.name} has ${file.size} bytes; at most ${MAX_WEIGHTS_BYTES}`,
        )
      }
      const { tensors } = await readHeader(file)
      return config && readModules(tensors, config, linears, about, problems)
    })
    if (read === undefined && config !== undefined) await reportMissing(folder, about)
    return read
  })
  problems.throwIfAny()
  if (config === undefined || modules === undefined) throw new Error('sidepath bug: an unread adapter has no problem')
  return { name, loraAlpha: config.loraAlpha, useRslora: config.useRslora, modules }
}

async function reportMissing(folder: Folder, about: string): Promise<void> {
  const pickle = await folder.open(PICKLE_FILE)
  await pickle?.close()
  throw pickle === undefined
    ? inputError('file-missing', `${about}: ${folder.name}/${WEIGHTS_FILE} is missing; give a folder saved by PEFT`)
    : inputError(
        'adapter-format',
        `${about}: ${folder.name} has only ${PICKLE_FILE}, a pickle that could run code; ` +
          're-save it with save_pretrained(…, safe_serialization=True)',
      )
}

async function readModules(
  tensors: ReadonlyMap<string, StoredTensor>,
  config: AdapterConfig,
  linears: readonly Linear[],
  about: string,
  problems: Problems,
): Promise<AdapterModule[]> {
  checkPatterns(config.rankPattern, 'rank_pattern', about, problems)
  checkPatterns(config.alphaPattern, 'alpha_pattern', about, problems)
  const pairs = pairTensors(tensors, about, problems)
  checkTargets(pairs, config, linears, about, problems)
  if (tensors.size === 0) problems.add('tensor-missing', `${about}: ${WEIGHTS_FILE} has no tensors`)
  const byModule = new Map(linears.map((linear) => [linear.module, linear]))
  const modules: AdapterModule[] = []
  for (const [module, pair] of pairs) {
    const linear = byModule.get(module)
    if (linear === undefined) reportUnknownModule(module, about, problems)
    else {
      const read = await readModule(linear, pair, config, about, problems)
      if (read !== undefined) modules.push(read)
    }
  }
  const place = new Map(linears.map(({ module }, index) => [module, index]))
  return modules.sort((a, b) => (place.get(a.linear.module) ?? 0) - (place.get(b.linear.module) ?? 0))
}

function reportUnknownModule(module: string, about: string, problems: Problems): void {
  const isHead = /(^|\.)(lm_head|embed_tokens)$/.test(module)
  problems.add(
    isHead ? 'adapter-target' : 'adapter-base',
    isHead
      ? `${about}: it changes ${quote(module)}, which is not supported yet; train without it`
      : `${about}: the base has no linear ${quote(module)}; the adapter was trained for another base`,
  )
}

async function readModule(
  linear: Linear,
  { A, B }: Pair,
  config: AdapterConfig,
  about: string,
  problems: Problems,
): Promise<AdapterModule | undefined> {
  const { module } = linear
  if (A === undefined || B === undefined) {
    const [found, lacking] = A === undefined ? ['lora_B', 'lora_A'] : ['lora_A', 'lora_B']
    problems.add('adapter-pair', `${about}: ${module} has ${found} but no ${lacking}; re-export the adapter`)
    return undefined
  }
  const r = lookUp(config.rankPattern, module, config.r)
  const rightRank = checkRank(A, B, r, module, about, problems)
  const rightSizes = checkSizes(A, B, linear, about, problems)
  if (!rightRank || !rightSizes) return undefined
  const a = await readFinite(A, module, 'lora_A', about, problems)
  const b = await readFinite(B, module, 'lora_B', about, problems)
  const alpha = lookUp(config.alphaPattern, module, config.loraAlpha)
  return {
    linear,
    r,
    scaling: alpha / (config.useRslora ? Math.sqrt(r) : r),
    A: transpose(a, r, linear.in),
    B: transpose(b, linear.out, r),
    tensors: [A.name, B.name],
  }
}

// The tensors tell the true rank, but the scaling comes from the config's: where they differ neither can be trusted.
function checkRank(A: StoredTensor, B: StoredTensor, r: number, module: string, about: string, problems: Problems) {
  const found: readonly (readonly [string, number | undefined])[] = [
    ['lora_A', A.shape[0]],
    ['lora_B', B.shape[1]],
  ]
  const wrong = found.filter(([, rank]) => rank !== r)
  for (const [factor, rank] of wrong) {
    problems.add(
      'adapter-rank',
      `${about}: ${module}.${factor} has r=${rank} but adapter_config.json says r=${r}; re-export the adapter or fix the config`,
    )
  }
  return wrong.length === 0
}

function checkSizes(A: StoredTensor, B: StoredTensor, linear: Linear, about: string, problems: Problems): boolean {
  const flat = A.shape.length === 2 && B.shape.length === 2
  if (flat && A.shape[1] === linear.in && B.shape[0] === linear.out) return true
  problems.add(
    'adapter-base',
    `${about}: ${linear.module} has lora_A [${A.shape}] and lora_B [${B.shape}] but the base's linear is ` +
      `${linear.in} → ${linear.out}; the adapter was trained for another base`,
  )
  return false
}

async function readFinite(
  tensor: FloatTensorSource,
  module: string,
  factor: string,
  about: string,
  problems: Problems,
): Promise<Float32Array> {
  const values = await readFloats(tensor)
  if (firstNonFinite(values) >= 0) {
    problems.add('tensor-not-finite', `${about}: ${module}.${factor} holds NaN or infinity; the training diverged`)
  }
  return values
}

/** [rows, columns] → [columns, rows], row-major. */
function transpose(values: Float32Array, rows: number, columns: number): Float32Array {
  const result = new Float32Array(values.length)
  for (let row = 0; row < rows; row += 1) {
    for (let column = 0; column < columns; column += 1) {
      result[column * rows + row] = values[row * columns + column] as number
    }
  }
  return result
}
