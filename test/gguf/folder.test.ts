// A GGUF as a Hugging Face folder: names, rows, configuration, blocks; and what is refused.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { gguf } from '@huggingface/gguf'
import { describe, expect, it } from 'vitest'
import { digestBase } from '../../compiler/checkpoint/digest.ts'
import { openCheckpoint } from '../../compiler/checkpoint/read.ts'
import { InputError } from '../../compiler/errors.ts'
import { architectureOf } from '../../compiler/gguf/architectures/architectures.ts'
import { F32 } from '../../compiler/gguf/blocks/f32.ts'
import { Q4_1 } from '../../compiler/gguf/blocks/q4-1.ts'
import { openGguf } from '../../compiler/gguf/folder.ts'
import { Metadata } from '../../compiler/gguf/metadata.ts'
import { nameTensors } from '../../compiler/gguf/name-tensors.ts'
import { readGguf } from '../../compiler/gguf/read.ts'
import { shortestFloat } from '../../compiler/gguf/shortest-float.ts'
import { isGgufWeights } from '../../compiler/gguf/weights-source.ts'
import { readJson } from '../../compiler/read-file.ts'
import { readFloats } from '../../compiler/safetensors/stream.ts'
import { nodeHost } from '../../runtime/disk.ts'
import { memorySource } from '../compiler/folders.ts'
import { FUZZ_SEED, mutate, seeded } from '../compiler/random.ts'
import { type RawGguf, TINY_KEYS, TINY_SIZES, tinyTensors, type Value, writeGguf } from './gguf-file.ts'

const raw: RawGguf = { keys: TINY_KEYS, tensors: tinyTensors(seeded(FUZZ_SEED)) }
const tiny = writeGguf(raw)
const names: Readonly<Record<string, Record<string, string>>> = JSON.parse(
  readFileSync(join(import.meta.dirname, 'names.json'), 'utf8'),
).names
const floatTensor = { format: F32, shape: [1], offset: 0, bytes: 4 }
const open = (bytes: Uint8Array) => openGguf(async () => memorySource('tiny.gguf', bytes))
const withKey = (key: string, value: Value): RawGguf => ({
  ...raw,
  keys: [...TINY_KEYS.filter(([other]) => other !== key), [key, value]],
})

async function refusal(given: RawGguf | Uint8Array): Promise<string> {
  try {
    await open(given instanceof Uint8Array ? given : writeGguf(given))
  } catch (error) {
    if (error instanceof InputError) return `${error.code}: ${error.message}`
    throw error
  }
  return 'accepted'
}

describe('a GGUF as a folder', () => {
  it('has the header that the reader of @huggingface/gguf finds', async () => {
    const parsed = await gguf('http://localhost/tiny.gguf', {
      fetch: async () => new Response(new Uint8Array(tiny)),
    })
    const { tensors, metadata } = await readGguf(memorySource('tiny.gguf', tiny))
    expect([...tensors.values()].map(({ name, format, shape, offset }) => [name, format.type, shape, offset])).toEqual(
      parsed.tensorInfos.map(({ name, dtype, shape, offset }) => [
        name,
        dtype,
        shape.map(Number).reverse(),
        Number(offset + parsed.tensorDataOffset),
      ]),
    )
    const { version: _, tensor_count: __, kv_count: ___, ...keys } = parsed.metadata as Record<string, unknown>
    const ours = [...metadata.entries()].map(([key, value]) => [
      key,
      ArrayBuffer.isView(value) ? Array.from(value as Int32Array) : value,
    ])
    expect(Object.fromEntries(ours)).toEqual(keys)
  })

  it('is a checkpoint: every tensor that the configuration demands, and no other', async () => {
    const checkpoint = await openCheckpoint(await open(tiny))
    expect(checkpoint.config).toMatchObject({ tiedHead: true, rmsNormEps: 1e-5, ropeTheta: 100_000, eosTokenIds: [2] })
    expect(checkpoint.config.architecture.vocabSize).toBe(TINY_SIZES.VOCABULARY)
    expect(await digestBase(checkpoint, nodeHost)).toMatch(/^[0-9a-f]{64}$/)
  })

  it.each(Object.keys(names))('%s: its tensors have the names of transformers', async (name) => {
    const architecture = architectureOf(new Metadata('x.gguf', new Map([['general.architecture', name]])))
    const tensors = Object.keys(names[name]!).map((key) => ({ ...floatTensor, name: key }))
    const named = nameTensors('x.gguf', architecture, new Map(tensors.map((tensor) => [tensor.name, tensor])))
    expect(Object.fromEntries(named.map(({ name: to, stored }) => [stored.name, to]))).toEqual(names[name])
    expect(named.filter(({ altered }) => altered !== undefined).map(({ stored }) => stored.name)).toEqual(
      name === 'llama' ? tensors.map((tensor) => tensor.name).filter((key) => /attn_[qk]\.weight$/.test(key)) : [],
    )
  })

  it('puts the rows of queries and keys back: the first half of a head before the second', async () => {
    const { HIDDEN, HEADS, HEAD_DIM } = TINY_SIZES
    const checkpoint = await openCheckpoint(await open(tiny))
    const turned = await readFloats(checkpoint.tensors.get('model.layers.1.self_attn.q_proj.weight')!)
    const stored = new Float32Array(HEADS * HEAD_DIM * HIDDEN)
    Q4_1.dequantise(raw.tensors.find(({ name }) => name === 'blk.1.attn_q.weight')!.data, stored)
    const row = (all: Float32Array, n: number) => [...all.subarray(n * HIDDEN, (n + 1) * HIDDEN)]
    // The conversion: [heads, 2, half, columns] → [heads, half, 2, columns].
    for (let head = 0; head < HEADS; head += 1) {
      for (let half = 0; half < 2; half += 1) {
        for (let i = 0; i < HEAD_DIM / 2; i += 1) {
          const before = head * HEAD_DIM + half * (HEAD_DIM / 2) + i
          const after = head * HEAD_DIM + 2 * i + half
          expect(row(turned, before)).toEqual(row(stored, after))
        }
      }
    }
  })

  it('reads any stretch of the weights as the same bytes', async () => {
    const file = (await (await open(tiny)).open('model.safetensors'))!
    const whole = await file.read(0, file.size)
    const random = seeded(FUZZ_SEED)
    for (let round = 0; round < 300; round += 1) {
      const from = Math.floor(random() * file.size)
      const length = Math.floor(random() * Math.min(5000, file.size - from))
      expect(Buffer.compare(await file.read(from, length), whole.subarray(from, from + length))).toBe(0)
    }
    await expect(file.read(file.size - 1, 2)).rejects.toThrow(RangeError)
  })

  it('hands out the blocks of a tensor, rows in the order of its floats', async () => {
    const checkpoint = await openCheckpoint(await open(tiny))
    for (const name of ['model.layers.0.self_attn.k_proj.weight', 'model.layers.1.mlp.up_proj.weight']) {
      const tensor = checkpoint.tensors.get(name)!
      if (!isGgufWeights(tensor.source)) throw new Error('not from a GGUF')
      const quantised = tensor.source.quantised(name)!
      expect(quantised).toMatchObject({ format: 'Q4_1', shape: tensor.shape })
      const out = new Float32Array(tensor.bytes / 4)
      Q4_1.dequantise(await quantised.rows(0, tensor.shape[0]!), out)
      // From the middle of a head to the middle of another.
      const [first, count] = [5, 21]
      expect(await quantised.rows(first, count)).toEqual(
        (await quantised.rows(0, tensor.shape[0]!)).slice(first * 40, (first + count) * 40),
      )
      expect(out).toEqual(await readFloats(tensor))
      expect(tensor.source.quantised('model.norm.weight')).toBeUndefined()
    }
  })

  it('keeps F16 and BF16 as they are', async () => {
    const random = seeded(FUZZ_SEED)
    const half = (type: number) => ({
      ...raw,
      tensors: raw.tensors.map((tensor) =>
        tensor.name === 'blk.0.attn_q.weight'
          ? { ...tensor, type, data: Uint8Array.from({ length: 64 * 64 * 2 }, () => Math.floor(random() * 0x3c)) }
          : tensor,
      ),
    })
    for (const [type, dtype] of [
      [1, 'F16'],
      [30, 'BF16'],
    ] as const) {
      const checkpoint = await openCheckpoint(await open(writeGguf(half(type))))
      expect(checkpoint.tensors.get('model.layers.0.self_attn.q_proj.weight')!.dtype).toBe(dtype)
    }
  })

  it("finds Llama 3's scaling in the factors that GGUF keeps of it", async () => {
    const [factor, low, high, original, theta, headDim] = [8, 1, 4, 8192, 500_000, 128]
    const factors = Float32Array.from({ length: headDim / 2 }, (_, i) => {
      const wavelength = 2 * Math.PI * theta ** ((2 * i) / headDim)
      const smooth = Math.min(1, Math.max(0, (original / wavelength - low) / (high - low)))
      return 1 / ((1 - smooth) / factor + smooth)
    })
    const keys = TINY_KEYS.map((entry): (typeof TINY_KEYS)[number] =>
      entry[0] === 'llama.rope.freq_base' ? [entry[0], { type: 'f32', value: theta }] : entry,
    )
    const scaled = writeGguf({
      keys: [...keys, ['llama.attention.key_length', { type: 'u32', value: headDim }]],
      tensors: [
        ...raw.tensors.map((tensor) =>
          /attn_[qk]\./.test(tensor.name)
            ? { ...tensor, sizes: [64, 128], data: Uint8Array.from({ length: 256 * 20 }, () => 1) }
            : tensor,
        ),
        { name: 'rope_freqs.weight', sizes: [headDim / 2], type: 0, data: new Uint8Array(factors.buffer) },
      ],
    })
    expect(await readJson(await open(scaled), 'config.json')).toMatchObject({
      rope_scaling: {
        rope_type: 'llama3',
        factor,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position_embeddings: original,
      },
    })
  })

  it('reads float32 as the decimals that were meant', () => {
    for (const value of [1e-5, 1e-6, 0.1, 10_000, 1_000_000, 5e5]) {
      expect(shortestFloat(Math.fround(value))).toBe(value)
    }
  })
})

describe('what is refused, and how', () => {
  it.each([
    ['another version', { ...raw, version: 1 }, /gguf-unsupported: .* version 1/],
    ['a big-endian file', { ...raw, version: 0x03000000 }, /gguf-unsupported: .* big-endian/],
    ['another architecture', withKey('general.architecture', { type: 'string', value: 'mamba' }), /"mamba"/],
    ['a key that could change the numbers', withKey('llama.logit_scale', { type: 'f32', value: 2 }), /logit_scale/],
    ['another pre-tokenizer', withKey('tokenizer.ggml.pre', { type: 'string', value: 'own' }), /pre is "own"/],
    ['a key of another type', withKey('llama.block_count', { type: 'string', value: '2' }), /not a finite number/],
    ['one part of several', withKey('split.count', { type: 'u32', value: 3 }), /one of 3 parts/],
    ['an alignment of 24', withKey('general.alignment', { type: 'u32', value: 24 }), /power of two/],
    ['a token id outside', withKey('tokenizer.ggml.eos_token_id', { type: 'u32', value: 8 }), /none of 8 tokens/],
    ['the same key twice', { ...raw, keys: [...TINY_KEYS, TINY_KEYS[0]!] }, /there twice/],
    ['the same tensor twice', { ...raw, tensors: [...raw.tensors, raw.tensors[1]!] }, /there twice/],
    [
      'a tensor without a place',
      { ...raw, tensors: [...raw.tensors, { ...raw.tensors[1]!, name: 'blk.0.mystery.weight' }] },
      /tensor-unknown: .*mystery/,
    ],
    ['a format that is not read', { ...raw, tensors: [{ ...raw.tensors[0]!, type: 10 }] }, /Q2_K/],
    ['a format without a name', { ...raw, tensors: [{ ...raw.tensors[0]!, type: 77 }] }, /type 77/],
    ['rows that are no whole blocks', { ...raw, tensors: [{ ...raw.tensors[0]!, sizes: [33, 10] }] }, /whole blocks/],
    ['five dimensions', { ...raw, tensors: [{ ...raw.tensors[0]!, sizes: [32, 1, 1, 1, 1] }] }, /5 dimensions/],
    ['an empty tensor', { ...raw, tensors: [{ ...raw.tensors[0]!, sizes: [0, 0] }] }, /too many bytes/],
    ['sizes beyond 2^53', { ...raw, tensors: [{ ...raw.tensors[0]!, sizes: [2 ** 30, 2 ** 30] }] }, /bytes/],
    ['an unaligned offset', { ...raw, tensors: [{ ...raw.tensors[0]!, offset: 5 }] }, /no multiple of 32/],
    ['an offset beyond the file', { ...raw, tensors: [{ ...raw.tensors[0]!, offset: 2 ** 40 }] }, /hole/],
    ['tensors that overlap', { ...raw, tensors: [raw.tensors[0]!, { ...raw.tensors[1]!, offset: 0 }] }, /overlaps/],
  ] satisfies [string, RawGguf, RegExp][])('%s', async (_, given, pattern) => {
    expect(await refusal(given)).toMatch(pattern)
  })

  it('a file cut anywhere', async () => {
    const headerEnd = Math.min(...[...(await readGguf(memorySource('x', tiny))).tensors.values()].map((t) => t.offset))
    for (let length = 0; length < tiny.length; length += length < headerEnd || length > tiny.length - 64 ? 1 : 61) {
      expect(await refusal(tiny.slice(0, length)), `${length} bytes`).toMatch(/^gguf-invalid/)
    }
  })

  it('2,000 damaged files: an InputError, or a checkpoint that can be read to its end', async () => {
    const random = seeded(FUZZ_SEED)
    for (let round = 0; round < 2000; round += 1) {
      const damaged = mutate(tiny, random, 0, round % 2 === 0 ? 3000 : tiny.length)
      try {
        await digestBase(await openCheckpoint(await open(damaged)), nodeHost)
      } catch (error) {
        if (!(error instanceof InputError)) throw new Error(`seed ${FUZZ_SEED}, round ${round}`, { cause: error })
      }
    }
  })
})
