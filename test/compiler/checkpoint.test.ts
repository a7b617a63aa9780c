// What a base must be, and what its digest depends on. Each case changes one thing about the tiny model's folder.
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { digestBase } from '../../compiler/checkpoint/digest.ts'
import { openCheckpoint } from '../../compiler/checkpoint/read.ts'
import { nodeHost } from '../../runtime/disk.ts'
import { expectRefusal, refusal } from './failing.ts'
import { BASE_FILES, type Files, loadFiles, memoryFolder, TINY } from './folders.ts'
import { editRaw, float32, parseRaw, type RawTensor, writeRaw } from './safetensors-file.ts'

let base: Record<string, Uint8Array>
let config: Record<string, unknown>

beforeAll(async () => {
  base = await loadFiles(join(TINY, 'base'), BASE_FILES)
  config = JSON.parse(new TextDecoder().decode(base['config.json']))
})

const open = (files: Files) => openCheckpoint(memoryFolder('base', files))
const digest = async (files: Files) => digestBase(await open(files), nodeHost)
const withConfig = (change: Record<string, unknown>): Files => ({
  ...base,
  'config.json': JSON.stringify({ ...config, ...change }),
})
const withTensors = (change: (tensors: Map<string, RawTensor>) => void): Files => ({
  ...base,
  'model.safetensors': editRaw(base['model.safetensors']!, change),
})
const EMBEDDING = 'model.embed_tokens.weight'

describe('the configuration', () => {
  it('is read as transformers reads it', async () => {
    const { config } = await open(base)
    expect(config).toEqual({
      architecture: {
        family: 'llama',
        hiddenSize: 48,
        intermediateSize: 72,
        layers: 2,
        heads: 6,
        kvHeads: 3,
        headDim: 8,
        vocabSize: 96,
        maxPositions: 128,
      },
      rmsNormEps: 1e-5,
      ropeTheta: 5000,
      tiedHead: false,
      eosTokenIds: [2],
    })
  })

  it('takes rope_theta from where older versions wrote it, and 10000 where nobody did', async () => {
    expect((await open(withConfig({ rope_parameters: undefined, rope_theta: 777 }))).config.ropeTheta).toBe(777)
    expect((await open(withConfig({ rope_parameters: undefined }))).config.ropeTheta).toBe(10_000)
  })

  it('derives the head size and the KV heads where they are absent', async () => {
    const error = await refusal(() => open(withConfig({ head_dim: undefined, num_key_value_heads: undefined })))
    expect(error.problems.every(({ code }) => code === 'tensor-shape')).toBe(true)
    expect(error.message).toContain('k_proj.weight" is [24,48] but config.json says [48,48]')
  })

  it('takes the end tokens of generation_config.json, else of config.json', async () => {
    const generation = { ...base, 'generation_config.json': '{"eos_token_id":[5,6]}' }
    expect((await open(generation)).config.eosTokenIds).toEqual([5, 6])
    const { 'generation_config.json': _, ...without } = base
    expect((await open(without)).config.eosTokenIds).toEqual([2])
  })

  it.each<[string, unknown]>([
    ['layer_types', ['full_attention', 'sliding_attention']],
    ['final_logit_softcapping', 30],
    ['embedding_multiplier', 12],
    ['hidden_act', 'gelu'],
    ['sliding_window', 4096],
    ['use_sliding_window', true],
    ['partial_rotary_factor', 0.5],
    ['quantization_config', { bits: 4 }],
    ['model_type', 'bloom'],
  ])('is refused by name with %s = %j', async (key, value) => {
    await expectRefusal(() => open(withConfig({ [key]: value })), 'config-unsupported', 'config.json', key)
  })

  it('is refused by name with a rope_type that is not known', async () => {
    const rope = { rope_parameters: { rope_type: 'proportional', rope_theta: 5000 } }
    await expectRefusal(() => open(withConfig(rope)), 'config-unsupported', '"proportional"')
  })

  it('is refused with a model_type that is not known, and lists those that are', async () => {
    const wrong = withConfig({ model_type: 'bloom' })
    await expectRefusal(
      () => open(wrong),
      'config-unsupported',
      'llama, mistral, qwen2, qwen3, phi3, gemma2, gemma3_text',
    )
  })

  it.each([
    [{ rope_type: 'llama3', factor: 8, high_freq_factor: 4, original_max_position_embeddings: 64 }, 'low_freq_factor'],
    [{ type: 'linear', factor: -1 }, 'factor'],
    [{ rope_type: 'longrope', original_max_position_embeddings: 64, short_factor: [1] }, 'short_factor'],
  ])('is refused with the scaling %j, which lacks %s', async (rope, key) => {
    const wrong = withConfig({ rope_parameters: undefined, rope_scaling: rope })
    await expectRefusal(() => open(wrong), 'config-invalid', 'config.json', key)
  })

  it('is refused with rotary embeddings of a part of the head, where the family has none', async () => {
    const wrong = withConfig({ rope_parameters: { rope_type: 'default', partial_rotary_factor: 0.5 } })
    await expectRefusal(() => open(wrong), 'config-unsupported', 'partial_rotary_factor')
  })

  it('demands the tensors of the biases that it switches on', async () => {
    const { problems } = await refusal(() => open(withConfig({ attention_bias: true, mlp_bias: true })))
    expect(problems).toHaveLength(14)
    expect(problems.every(({ code }) => code === 'tensor-missing')).toBe(true)
  })

  it('may say explicitly that such options are off', async () => {
    const off = { rope_scaling: null, sliding_window: null, quantization_config: null, use_sliding_window: false }
    await expect(open(withConfig(off))).resolves.toBeDefined()
  })

  it('reports everything that it cannot honour at once', async () => {
    const { problems } = await refusal(() => open(withConfig({ sliding_window: 5, clip_qkv: 8, model_type: 'x' })))
    expect(problems).toHaveLength(3)
  })

  it.each([
    [{ hidden_size: 0 }],
    [{ hidden_size: 48.5 }],
    [{ hidden_size: '48' }],
    [{ num_hidden_layers: 1025 }],
    [{ num_hidden_layers: -1 }],
    [{ max_position_embeddings: 2 ** 20 + 1 }],
    [{ vocab_size: null }],
    [{ num_key_value_heads: 4 }],
    [{ head_dim: 7 }],
    [{ rms_norm_eps: 0 }],
    [{ rms_norm_eps: -1 }],
    [{ eos_token_id: 96 }],
    [{ eos_token_id: -1 }],
    [{ rope_parameters: { rope_theta: 0 } }],
  ])('is refused with %j', async (change) => {
    const { 'generation_config.json': _, ...files } = { ...base, ...withConfig(change) }
    expect((await refusal(() => open(files))).code).toBe('config-invalid')
  })

  it('is refused where nothing ends a generation', async () => {
    const { 'generation_config.json': _, ...files } = { ...base, ...withConfig({ eos_token_id: null }) }
    await expectRefusal(() => open(files), 'config-invalid', 'eos_token_id is missing')
  })
})

describe('the tensors', () => {
  it('must all be there', async () => {
    const files = withTensors((tensors) => tensors.delete('model.norm.weight'))
    await expectRefusal(() => open(files), 'tensor-missing', '"model.norm.weight" is missing')
  })

  it('must all have a place', async () => {
    const files = withTensors((tensors) => tensors.set('model.layers.2.x', tensors.get(EMBEDDING)!))
    await expectRefusal(() => open(files), 'tensor-unknown', '"model.layers.2.x"')
  })

  it('may include the buffers that old versions saved', async () => {
    const name = 'model.layers.0.self_attn.rotary_emb.inv_freq'
    const files = withTensors((tensors) => tensors.set(name, { dtype: 'F32', shape: [1], data: float32([1]) }))
    expect(await digest(files)).toBe(await digest(base))
  })

  it('must have the shapes that the configuration says', async () => {
    const { problems } = await refusal(() => open(withConfig({ vocab_size: 97 })))
    expect(problems.map(({ code }) => code)).toEqual(['tensor-shape', 'tensor-shape'])
    expect(problems[0]?.message).toContain('is [96,48] but config.json says [97,48]')
  })

  it('must be floats of a type that fp32 holds exactly', async () => {
    const files = withTensors((tensors) => {
      const norm = tensors.get('model.norm.weight')!
      tensors.set('model.norm.weight', { dtype: 'F64', shape: [48], data: Buffer.concat([norm.data, norm.data]) })
    })
    await expectRefusal(() => open(files), 'tensor-dtype', 'is F64')
  })

  it('must be finite', async () => {
    const files = withTensors((tensors) => tensors.get(EMBEDDING)!.data.set(float32([Number.NaN]), 64))
    await expectRefusal(() => digest(files), 'tensor-not-finite', EMBEDDING)
  })

  it('are refused as a whole where a file is cut short, cannot be found or is a pickle', async () => {
    const cut = { ...base, 'model.safetensors': base['model.safetensors']!.slice(0, -1) }
    await expectRefusal(() => open(cut), 'safetensors-invalid', 'base/model.safetensors')
    const { 'model.safetensors': _, ...none } = base
    await expectRefusal(() => open({ ...none, 'pytorch_model.bin': 'PK' }), 'file-missing', 'safe_serialization=True')
    await expectRefusal(() => open({}), 'file-missing', 'config.json')
  })
})

describe('shards', () => {
  const shard = (
    change: (index: Record<string, string>, files: Record<string, Uint8Array | string>) => void = () => {},
  ) => {
    const { 'model.safetensors': single, ...files } = base as Record<string, Uint8Array | string>
    const tensors = [...parseRaw(single as Uint8Array)].reverse()
    const index: Record<string, string> = {}
    for (const part of [0, 1, 2]) {
      const path = `model-0000${part + 1}-of-00003.safetensors`
      const some = tensors.filter((_, i) => i % 3 === part)
      for (const [name] of some) index[name] = path
      files[path] = writeRaw(new Map(some))
    }
    change(index, files)
    files['model.safetensors.index.json'] ??= JSON.stringify({ metadata: { total_size: 1 }, weight_map: index })
    return files
  }

  it('give the digest of the single file: layout is not identity', async () => {
    expect(await digest(shard())).toBe(await digest(base))
  })

  it.each(['../model.safetensors', '/etc/x.safetensors', 'a/b.safetensors', 'model.bin'])(
    'cannot be called %s',
    async (path) => {
      const files = shard((index) => {
        index[EMBEDDING] = path
      })
      await expectRefusal(() => open(files), 'config-invalid', 'model.safetensors.index.json')
    },
  )

  it('must all be there', async () => {
    const files = shard((_, files) => delete files['model-00002-of-00003.safetensors'])
    await expectRefusal(() => open(files), 'file-missing', 'model-00002-of-00003.safetensors is missing')
  })

  it('must hold what the index says, no more', async () => {
    const files = shard((index) => {
      index[EMBEDDING] = index['model.norm.weight'] as string
    })
    const { problems } = await refusal(() => open(files))
    expect(problems.map(({ code }) => code)).toContain('tensor-unknown')
  })
})

describe('a tied head', () => {
  const tied = (change: (tensors: Map<string, RawTensor>) => void): Files => ({
    ...withTensors(change),
    ...{ 'config.json': JSON.stringify({ ...config, tie_word_embeddings: true }) },
  })

  it('needs no lm_head, and accepts a copy of the embedding', async () => {
    const without = tied((tensors) => tensors.delete('lm_head.weight'))
    const copied = tied((tensors) => tensors.set('lm_head.weight', tensors.get(EMBEDDING)!))
    expect(await digest(copied)).toBe(await digest(without))
  })

  it('is refused where the stored head is another one', async () => {
    await expectRefusal(
      () => digest(tied(() => {})),
      'tensor-unknown',
      'tie_word_embeddings is true but lm_head.weight differs',
    )
  })
})

describe('the digest', () => {
  it('is the same whatever the order of the tensors and the metadata of the file', async () => {
    const reversed = writeRaw(new Map([...parseRaw(base['model.safetensors']!)].reverse()), { format: 'x' })
    expect(await digest({ ...base, 'model.safetensors': reversed })).toBe(await digest(base))
  })

  it('ignores what does not decide the numbers', async () => {
    const change = withConfig({
      torch_dtype: 'float16',
      transformers_version: '9',
      architectures: null,
      pad_token_id: 9,
    })
    expect(await digest(change)).toBe(await digest(base))
  })

  it.each([
    ['one bit of one tensor', () => withTensors((tensors) => tensors.get(EMBEDDING)!.data.set([1], 5))],
    ['rms_norm_eps', () => withConfig({ rms_norm_eps: 1e-6 })],
    ['rope_theta', () => withConfig({ rope_parameters: { rope_theta: 5001 } })],
    ['max_position_embeddings', () => withConfig({ max_position_embeddings: 129 })],
    [
      'two tensors changing places',
      () =>
        withTensors((tensors) => {
          const [one, other] = ['gate_proj', 'up_proj'].map((name) => `model.layers.0.mlp.${name}.weight`)
          const kept = tensors.get(one!)!
          tensors.set(one!, tensors.get(other!)!)
          tensors.set(other!, kept)
        }),
    ],
  ])('changes with %s', async (_, files) => {
    expect(await digest(files())).not.toBe(await digest(base))
  })
})
