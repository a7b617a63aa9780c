// A Llama-shaped checkpoint with random weights in bfloat16, and a LoRA adapter for all of its linears: what a merge is
// measured on.

import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { finished } from 'node:stream/promises'
import { layerLinears, requiredTensors } from '../compiler/checkpoint/names.ts'
import { ArchitectureSchema } from '../compiler/contract.ts'
import { encodeSafetensors, type FloatTensor } from '../compiler/safetensors/write.ts'

export interface Size {
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly layers: number
  readonly heads: number
  readonly kvHeads: number
  readonly vocabSize: number
  readonly tiedHead: boolean
}

/** As SmolLM2 135M. */
export const SMALL: Size = {
  hiddenSize: 576,
  intermediateSize: 1536,
  layers: 30,
  heads: 9,
  kvHeads: 3,
  vocabSize: 49_152,
  tiedHead: true,
}
/** As TinyLlama 1.1B. */
export const LARGE: Size = {
  hiddenSize: 2048,
  intermediateSize: 5632,
  layers: 22,
  heads: 32,
  kvHeads: 4,
  vocabSize: 32_000,
  tiedHead: false,
}

/** As Llama 3.2 3B. */
export const THREE_BILLION: Size = {
  hiddenSize: 3072,
  intermediateSize: 8192,
  layers: 28,
  heads: 24,
  kvHeads: 8,
  vocabSize: 128_256,
  tiedHead: true,
}

const RANK = 16
const ALPHA = 32

function architectureOf(size: Size) {
  const { tiedHead: _, ...rest } = size
  return ArchitectureSchema.parse({
    family: 'llama',
    ...rest,
    headDim: size.hiddenSize / size.heads,
    maxPositions: 2048,
  })
}

/** Writes the base into `folder`, in files of at most so many bytes; the result is its number of parameters. */
export async function writeBase(
  folder: string,
  size: Size,
  shardBytes: number = Number.POSITIVE_INFINITY,
): Promise<number> {
  await mkdir(folder, { recursive: true })
  const architecture = architectureOf(size)
  const tensors = requiredTensors({
    architecture,
    rmsNormEps: 1e-5,
    ropeTheta: 10_000,
    tiedHead: size.tiedHead,
    eosTokenIds: [2],
  })
  const config = {
    architectures: ['LlamaForCausalLM'],
    model_type: 'llama',
    hidden_size: size.hiddenSize,
    intermediate_size: size.intermediateSize,
    num_hidden_layers: size.layers,
    num_attention_heads: size.heads,
    num_key_value_heads: size.kvHeads,
    vocab_size: size.vocabSize,
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    hidden_act: 'silu',
    tie_word_embeddings: size.tiedHead,
    bos_token_id: 1,
    eos_token_id: 2,
    torch_dtype: 'bfloat16',
  }
  await writeFile(join(folder, 'config.json'), `${JSON.stringify(config, null, 2)}\n`)
  const shards = intoShards([...tensors], shardBytes)
  const names = shards.map((_, index) =>
    shards.length === 1 ? 'model.safetensors' : `model-${number(index + 1)}-of-${number(shards.length)}.safetensors`,
  )
  const random = xorshift(1)
  for (const [index, shard] of shards.entries()) await writeShard(join(folder, names[index]!), shard, random)
  const total = [...tensors.values()].reduce((sum, shape) => sum + 2 * count(shape), 0)
  if (shards.length > 1) {
    const map = shards.flatMap((shard, index) => shard.map(([name]) => [name, names[index]!]))
    const index = { metadata: { total_size: total }, weight_map: Object.fromEntries(map) }
    await writeFile(join(folder, 'model.safetensors.index.json'), `${JSON.stringify(index, null, 2)}\n`)
  }
  return total / 2
}

type Tensors = (readonly [name: string, shape: readonly number[]])[]

const number = (index: number) => String(index).padStart(5, '0')

/** In order, each as full as whole tensors make it. */
function intoShards(tensors: Tensors, shardBytes: number): Tensors[] {
  const shards: Tensors[] = [[]]
  let bytes = 0
  for (const tensor of tensors) {
    const size = 2 * count(tensor[1])
    if (bytes > 0 && bytes + size > shardBytes) {
      shards.push([])
      bytes = 0
    }
    bytes += size
    shards.at(-1)?.push(tensor)
  }
  return shards
}

async function writeShard(path: string, tensors: Tensors, random: () => number): Promise<void> {
  const file = createWriteStream(path)
  const write = async (bytes: Uint8Array) => {
    if (!file.write(bytes)) await once(file, 'drain')
  }
  let end = 0
  const entries = tensors.map(([name, shape]) => {
    const begin = end
    end += 2 * count(shape)
    return [name, { dtype: 'BF16', shape, data_offsets: [begin, end] }] as const
  })
  const text = JSON.stringify({ __metadata__: { format: 'pt' }, ...Object.fromEntries(entries) })
  const header = new TextEncoder().encode(text.padEnd(Math.ceil(text.length / 8) * 8))
  const length = new Uint8Array(8)
  new DataView(length.buffer).setBigUint64(0, BigInt(header.length), true)
  await write(length)
  await write(header)
  for (const [, shape] of tensors) {
    const step = 1 << 20
    for (let at = 0; at < count(shape); at += step) {
      const words = new Uint16Array(Math.min(step, count(shape) - at))
      // Sign and seven bits of fraction at random, exponents from 2⁻⁷ to 2⁻⁴: about as large as a model's weights.
      for (let i = 0; i < words.length; i += 1) {
        const bits = random()
        words[i] = ((bits & 1) << 15) | ((120 + ((bits >> 1) & 3)) << 7) | ((bits >> 3) & 0x7f)
      }
      await write(new Uint8Array(words.buffer))
    }
  }
  file.end()
  await finished(file)
}

/** A PEFT adapter of rank 16 on every linear of the layers, in float32. */
export async function writeAdapter(folder: string, base: string, size: Size): Promise<void> {
  await mkdir(folder, { recursive: true })
  const random = xorshift(2)
  const values = (length: number) => Float32Array.from({ length }, () => (random() / 2 ** 31) * 0.02)
  const tensors = new Map<string, FloatTensor>()
  for (const linear of layerLinears(architectureOf(size))) {
    const prefix = `base_model.model.${linear.module}`
    tensors.set(`${prefix}.lora_A.weight`, { shape: [RANK, linear.in], data: values(RANK * linear.in) })
    tensors.set(`${prefix}.lora_B.weight`, { shape: [linear.out, RANK], data: values(RANK * linear.out) })
  }
  const config = {
    peft_type: 'LORA',
    task_type: 'CAUSAL_LM',
    base_model_name_or_path: base,
    r: RANK,
    lora_alpha: ALPHA,
    target_modules: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'],
    inference_mode: true,
  }
  await writeFile(join(folder, 'adapter_config.json'), `${JSON.stringify(config, null, 2)}\n`)
  await writeFile(join(folder, 'adapter_model.safetensors'), encodeSafetensors(tensors, { format: 'pt' }))
}

function count(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1)
}

/** Signed 32-bit numbers; the same for the same seed. */
function xorshift(seed: number): () => number {
  let state = seed * 0x9e3779b1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state
  }
}
