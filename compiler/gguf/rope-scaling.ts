// How a GGUF says that its rotary embeddings are scaled, back to what config.json says.
import { inputError, quote } from '../errors.ts'
import type { ByteSource } from '../host.ts'
import type { ConfigJson } from './architectures/architecture.ts'
import type { Metadata } from './metadata.ts'
import { LONGROPE_FACTORS, ROPE_FACTORS } from './name-tensors.ts'
import type { GgufTensor } from './read.ts'
import { shortestFloat } from './shortest-float.ts'

/** The factors were computed in float32 from decimals of a few digits. */
const TOLERANCE = 1e-5
const MAX_FACTORS = 1024

/** `rope_scaling` of config.json, or null. Throws `InputError` for a scaling that config.json could not say. */
export async function readRopeScaling(
  source: ByteSource,
  metadata: Metadata,
  tensors: ReadonlyMap<string, GgufTensor>,
  { rope_theta: theta, head_dim: headDim }: ConfigJson,
): Promise<ConfigJson | null> {
  const prefix = `${metadata.need('general.architecture', metadata.string)}.rope.scaling`
  const long = await longrope(source, metadata, tensors, prefix)
  if (long !== undefined) return long
  const type = metadata.string(`${prefix}.type`) ?? 'none'
  const factors = tensors.get(ROPE_FACTORS)
  if (factors !== undefined) return fromFactors(source, factors, Number(theta), Number(headDim))
  if (type === 'none') return null
  const factor = shortestFloat(metadata.need(`${prefix}.factor`, metadata.number))
  if (type === 'linear') return { rope_type: 'linear', factor }
  throw inputError(
    'gguf-unsupported',
    `${metadata.file}: ${prefix}.type is ${quote(type)}; "linear" and Llama 3's are read, give the Hugging Face folder`,
  )
}

/** Phi's: a factor a wave, one list up to the original length and one beyond. `undefined` where there are none. */
async function longrope(
  source: ByteSource,
  metadata: Metadata,
  tensors: ReadonlyMap<string, GgufTensor>,
  prefix: string,
): Promise<ConfigJson | undefined> {
  const [short, long] = [tensors.get(LONGROPE_FACTORS.short), tensors.get(LONGROPE_FACTORS.long)]
  if (short === undefined && long === undefined) return undefined
  if (short === undefined || long === undefined) {
    const missing = short === undefined ? LONGROPE_FACTORS.short : LONGROPE_FACTORS.long
    throw inputError('tensor-missing', `${source.name}: ${missing} is missing beside the other; convert it again`)
  }
  const original = metadata.need(`${prefix}.original_context_length`, metadata.number)
  const positions = metadata.number(prefix.replace('.rope.scaling', '.context_length')) ?? original
  const usual = positions <= original ? 1 : Math.sqrt(1 + Math.log(positions / original) / Math.log(original))
  const factor = metadata.number(`${prefix}.attn_factor`)
  return {
    rope_type: 'longrope',
    short_factor: await readFactors(source, short),
    long_factor: await readFactors(source, long),
    original_max_position_embeddings: original,
    // A configuration says it only where it is not what follows from the lengths.
    ...(factor === undefined || Math.fround(usual) === Math.fround(factor) ? {} : { attention_factor: factor }),
  }
}

async function readFactors(source: ByteSource, { name, format, shape, offset, bytes }: GgufTensor): Promise<number[]> {
  if (format.name !== 'F32' || shape.length !== 1 || (shape[0] as number) > MAX_FACTORS) {
    throw inputError('tensor-shape', `${source.name}: ${name} is not a list of at most ${MAX_FACTORS} F32`)
  }
  const factors = new Float32Array(new Uint8Array(await source.read(offset, bytes)).buffer)
  return Array.from(factors, shortestFloat)
}

/**
 * Llama 3 divides the frequency of wavelength λ = 2π·θ^(2i/d) by f: 1 for short waves, `factor` for long ones, and
 * 1/f = (1 − s)/factor + s between, s = (original/λ − low)/(high − low). GGUF keeps f alone. Only original/(high − low)
 * and low/(high − low) follow from it, so `low` is taken as 1, as every published model has it; what comes out must give
 * every f again.
 */
async function fromFactors(
  source: ByteSource,
  tensor: GgufTensor,
  theta: number,
  headDim: number,
): Promise<ConfigJson | null> {
  const { format, shape, offset, bytes } = tensor
  if (format.name !== 'F32' || shape.length !== 1 || shape[0] !== headDim / 2 || shape[0] > MAX_FACTORS) {
    throw inputError('tensor-shape', `${source.name}: ${ROPE_FACTORS} is not one F32 for each of ${headDim / 2} waves`)
  }
  const factors = new Float32Array(new Uint8Array(await source.read(offset, bytes)).buffer)
  if (factors.every((f) => f === 1)) return null
  const waves = [...factors].map((f, i) => ({ f, inverse: theta ** ((-2 * i) / headDim) / (2 * Math.PI) }))
  const factor = shortestFloat(Math.max(...factors))
  const between = waves
    .filter(({ f }) => f > 1 && f < factor)
    .map(({ f, inverse }) => ({ inverse, smooth: (1 / f - 1 / factor) / (1 - 1 / factor) }))
  const [first, last] = [between[0], between.at(-1)]
  if (first !== undefined && last !== undefined && first !== last) {
    const slope = (first.smooth - last.smooth) / (first.inverse - last.inverse)
    const width = 1 / (slope * first.inverse - first.smooth)
    const scaling = {
      rope_type: 'llama3',
      factor,
      low_freq_factor: 1,
      high_freq_factor: Number((1 + width).toFixed(2)),
      original_max_position_embeddings: Math.round(slope * width),
    }
    const { high_freq_factor: high, original_max_position_embeddings: original } = scaling
    const again = (inverse: number) => {
      const smooth = Math.min(1, Math.max(0, (original * inverse - 1) / (high - 1)))
      return 1 / ((1 - smooth) / factor + smooth)
    }
    if (waves.every(({ f, inverse }) => Math.abs(again(inverse) - f) <= TOLERANCE * f)) return scaling
  }
  throw inputError(
    'gguf-unsupported',
    `${source.name}: ${ROPE_FACTORS} is not Llama 3's scaling of rotary embeddings; give the Hugging Face folder`,
  )
}
