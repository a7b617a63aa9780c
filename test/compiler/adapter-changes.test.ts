// What the reader says of adapters that do not fit their base, whatever the architecture; PEFT parity is in test/parity.
import { describe, expect, it } from 'vitest'
import { type ReadOptions, readChanges } from '../../compiler/adapter/read-changes.ts'
import type { ProblemCode } from '../../compiler/errors.ts'
import { baseOf, peftFiles, rawOf, type Shapes, weightsOf } from './adapter-files.ts'
import { expectRefusal, refusal } from './failing.ts'
import { type Files, memoryFolder } from './folders.ts'
import { editRaw } from './safetensors-file.ts'

const LINEAR: Shapes = { 'a.q.lora_A.weight': [2, 3], 'a.q.lora_B.weight': [5, 2] }
const EMBEDDING: Shapes = { 'embed_tokens.lora_embedding_A': [2, 7], 'embed_tokens.lora_embedding_B': [3, 2] }
const BASE: Shapes = {
  'a.q.weight': [5, 3],
  'a.q.bias': [5],
  'a.norm.weight': [3],
  'embed_tokens.weight': [7, 3],
  'lm_head.weight': [7, 3],
}

const read = (files: Files, base: Shapes = BASE, options?: ReadOptions) =>
  readChanges({ name: 'x', folder: memoryFolder('x', files) }, baseOf(base), options)
const expectRefused = (files: Files, code: ProblemCode, words: string[], base: Shapes = BASE) =>
  expectRefusal(() => read(files, base), code, 'adapter "x"', ...words)

describe('a low-rank change', () => {
  it('keeps the factors as PEFT stores them and the scaling apart', async () => {
    const { changes, loraAlpha, weight } = await read(peftFiles(LINEAR))
    expect(changes).toEqual([
      {
        kind: 'low-rank',
        tensor: 'a.q.weight',
        A: new Float32Array([1, 2, 3, 4, 5, 6]),
        B: new Float32Array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        r: 2,
        in: 3,
        out: 5,
        scaling: 1.5,
        transposed: false,
        sources: ['base_model.model.a.q.lora_A.weight', 'base_model.model.a.q.lora_B.weight'],
      },
    ])
    expect({ loraAlpha, weight }).toEqual({ loraAlpha: 3, weight: 1 })
  })

  it.each([
    ['once more inside itself', 'base_model.model.base_model.model.'],
    ['twice more', 'base_model.model.base_model.model.base_model.model.'],
  ])('is read from a model that was wrapped %s', async (_, prefix) => {
    expect((await read(peftFiles(LINEAR, {}, prefix))).changes[0]?.tensor).toBe('a.q.weight')
  })

  it.each<[string, Shapes, string, string[]]>([
    ['the base is of another width', { ...BASE, 'a.q.weight': [5, 4] }, 'adapter-base', ['lora_A [2,3]', '4 → 5']],
    ['the sides are swapped and nothing says Conv1D', { 'a.q.weight': [3, 5] }, 'adapter-base', ['5 → 3']],
    ['the base has no such module', { 'a.k.weight': [5, 3] }, 'adapter-base', ['no linear "a.q"', 'another base']],
    ['it is an nn.MultiheadAttention', { 'a.q.in_proj_weight': [15, 5] }, 'adapter-base', ['nn.MultiheadAttention']],
  ])('is refused where %s', async (_, base, code, words) => {
    await expectRefused(peftFiles(LINEAR), code as ProblemCode, words, base)
  })

  it('is refused on a quantised base', async () => {
    const base = baseOf(BASE, { 'a.q.weight': 'I8' })
    const step = () => readChanges({ name: 'x', folder: memoryFolder('x', peftFiles(LINEAR)) }, base)
    await expectRefusal(step, 'tensor-dtype', '"a.q.weight" as I8', 'F32, F16 or BF16')
  })

  it('is refused on a grouped convolution, which PEFT cannot merge either', async () => {
    const shapes = { 'c.lora_A.weight': [2, 4, 3], 'c.lora_B.weight': [6, 2, 1] }
    await expectRefused(peftFiles(shapes), 'adapter-base', ['grouped convolution'], { 'c.weight': [6, 2, 3] })
  })

  it('is refused where the head is tied and so not stored', async () => {
    const shapes = { 'lm_head.lora_A.weight': [2, 3], 'lm_head.lora_B.weight': [7, 2] }
    const words = ['no "lm_head.weight"', 'tie_word_embeddings=False']
    await expectRefused(peftFiles(shapes), 'adapter-base', words, { 'embed_tokens.weight': [7, 3] })
  })
})

describe('a weight that is stored the other way round', () => {
  const base = (extra: Shapes) => ({ 'q.weight': [4, 4], 'q.bias': [4], ...extra })
  const square = (config: Record<string, unknown> = {}) =>
    peftFiles({ 'q.lora_A.weight': [2, 4], 'q.lora_B.weight': [4, 2] }, config)
  const transposed = async (files: Files, shapes: Shapes) => {
    const [change] = (await read(files, shapes)).changes
    return change?.kind === 'low-rank' && change.transposed
  }
  const linear = { 'k.weight': [6, 4], 'k.bias': [6] }
  const conv1d = { 'k.weight': [4, 6], 'k.bias': [6] }

  it.each<[string, boolean, Record<string, unknown>, Shapes]>([
    ['the other linears of the base, against the config', true, {}, conv1d],
    ['the other linears of the base, against the config', false, { fan_in_fan_out: true }, linear],
    ['the config, where there are no others', true, { fan_in_fan_out: true }, {}],
    ['the config, where there are no others', false, {}, {}],
  ])('is told by %s: %s', async (_, expected, config, extra) => {
    expect(await transposed(square(config), base(extra))).toBe(expected)
  })

  it('is none without a bias, which a Conv1D always has', async () => {
    expect(await transposed(square({ fan_in_fan_out: true }), { 'q.weight': [4, 4], ...conv1d })).toBe(false)
  })

  it('is refused where the base has both kinds and the weight is square', async () => {
    const both = base({ ...linear, 'v.weight': [4, 6], 'v.bias': [6] })
    await expectRefused(square(), 'adapter-base', ['q is square', 'cannot be told'], both)
  })
})

describe('the names of the base', () => {
  it.each([
    ['one name before them', { 'model.a.q.weight': [5, 3] }, 'model.a.q.weight'],
    ['one name less', { 'q.weight': [5, 3] }, 'q.weight'],
  ])('may have %s', async (_, base, tensor) => {
    expect((await read(peftFiles(LINEAR, { target_modules: ['a.q'] }), base)).changes[0]?.tensor).toBe(tensor)
  })

  it('are refused where they fit twice', async () => {
    const base = { 'encoder.a.q.weight': [5, 3], 'decoder.a.q.weight': [5, 3] }
    const { problems } = await refusal(() => read(peftFiles(LINEAR), base))
    expect(problems[0]?.message).toContain('below "decoder." or "encoder." of the base')
  })

  it('do not fit where only some of the modules do', async () => {
    const shapes = { ...LINEAR, 'a.z.lora_A.weight': [2, 3], 'a.z.lora_B.weight': [5, 2] }
    const { problems } = await refusal(() => read(peftFiles(shapes), { 'model.a.q.weight': [5, 3] }))
    expect(problems).toHaveLength(2)
  })
})

describe('the config promises what the file must hold', () => {
  it.each<[string, Shapes, Record<string, unknown>, ProblemCode, string[]]>([
    [
      'use_dora without magnitudes',
      LINEAR,
      { use_dora: true },
      'adapter-pair',
      ['no lora_magnitude_vector', 'use_dora'],
    ],
    ['lora_bias without biases', LINEAR, { lora_bias: true }, 'adapter-pair', ['no lora_B.bias', 'lora_bias']],
    [
      'magnitudes of another length',
      { ...LINEAR, 'a.q.lora_magnitude_vector': [4] },
      { use_dora: true },
      'tensor-shape',
      ['lora_magnitude_vector is [4]', '5 outputs'],
    ],
    [
      'an exclusion of what is there',
      LINEAR,
      { target_modules: ['q'], exclude_modules: ['a.q'] },
      'adapter-target',
      ['a.q has tensors but exclude_modules'],
    ],
    [
      'a target beyond the listed layers',
      LINEAR,
      { target_modules: ['q'], layers_to_transform: [1] },
      'adapter-target',
      ['a.q has tensors but target_modules does not name it'],
    ],
    ['bias="lora_only" without it', LINEAR, { bias: 'lora_only' }, 'adapter-pair', ['a.q has no bias', 'lora_only']],
    ['tokens without rows', LINEAR, { trainable_token_indices: [1] }, 'adapter-pair', ['no trainable_tokens_delta']],
    [
      'rows without tokens',
      { ...LINEAR, 'embed_tokens.token_adapter.trainable_tokens_delta': [2, 3] },
      {},
      'adapter-pair',
      ['does not say of which tokens'],
    ],
    [
      'a saved module without its tensor',
      { ...LINEAR, 'a.norm.weight': [3] },
      { modules_to_save: ['norm', 'lm_head'] },
      'adapter-target',
      ['modules_to_save covers "lm_head.weight"', 'incomplete'],
    ],
  ])('refuses %s', async (_, shapes, config, code, words) => {
    await expectRefused(peftFiles(shapes, config), code, words)
  })

  it('refuses lora_bias where the base has no bias, as PEFT does', async () => {
    const shapes = { ...LINEAR, 'a.q.lora_B.bias': [5] }
    await expectRefused(peftFiles(shapes, { lora_bias: true }), 'adapter-base', ['no bias of 5'], {
      'a.q.weight': [5, 3],
    })
  })
})

describe('tensors that are saved whole', () => {
  it.each<[string, Shapes, Record<string, unknown>, ProblemCode, string[]]>([
    [
      'a weight that nothing accounts for',
      { 'a.norm.weight': [3] },
      {},
      'tensor-unknown',
      ['nothing in adapter_config'],
    ],
    ['a bias with bias="none"', { 'a.q.bias': [5] }, {}, 'tensor-unknown', ['"base_model.model.a.q.bias"']],
    [
      'a new head',
      { 'score.weight': [2, 3] },
      { modules_to_save: ['score'] },
      'adapter-base',
      ['"score.weight"', 'does not store', 'add the new head'],
    ],
    [
      'a resized vocabulary',
      { 'embed_tokens.weight': [9, 3] },
      {},
      'adapter-base',
      ['[7,3] by [9,3]', 'resize_token_embeddings'],
    ],
    [
      'a norm of another width',
      { 'a.norm.weight': [4] },
      { modules_to_save: ['norm'] },
      'adapter-base',
      ['[3] by [4]', 'another base'],
    ],
    [
      'what was replaced, but not by what',
      { 'lm_head.original_module.weight': [7, 3] },
      {},
      'adapter-pair',
      ['original_module', 'by what is not there'],
    ],
  ])('refuses %s', async (_, shapes, config, code, words) => {
    await expectRefused(peftFiles({ ...LINEAR, ...shapes }, config), code, words)
  })

  it('takes two copies of one tensor only where they are equal', async () => {
    const names = { 'lm_head.weight': [7, 3], 'lm_head.modules_to_save.weight': [7, 3] }
    const files = peftFiles({ ...LINEAR, ...names }, { modules_to_save: ['lm_head'] })
    const { changes } = await read(files)
    expect(changes.at(-1)?.sources).toEqual([
      'base_model.model.lm_head.weight',
      'base_model.model.lm_head.modules_to_save.weight',
    ])
    const differing = editRaw(files['adapter_model.safetensors'] as Uint8Array, (tensors) => {
      tensors.get('base_model.model.lm_head.modules_to_save.weight')!.data[0]! ^= 1
    })
    await expectRefused({ ...files, 'adapter_model.safetensors': differing }, 'tensor-unknown', ['but differ'])
  })

  it('refuses NaN in one, though it is not kept in memory', async () => {
    const files = peftFiles({ ...LINEAR, 'lm_head.weight': [7, 3] }, { modules_to_save: ['lm_head'] })
    const broken = editRaw(files['adapter_model.safetensors'] as Uint8Array, (tensors) => {
      tensors.get('base_model.model.lm_head.weight')!.data.set([0, 0, 0xc0, 0x7f], 80)
    })
    await expectRefused({ ...files, 'adapter_model.safetensors': broken }, 'tensor-not-finite', ['lm_head.weight'])
  })

  it('can be read after the reader has returned, until the folder changes', async () => {
    const files: Record<string, Uint8Array | string> = {
      ...peftFiles({ ...LINEAR, 'lm_head.weight': [7, 3] }, { modules_to_save: ['lm_head'] }),
    }
    const { changes } = await read(files)
    const change = changes.at(-1)
    if (change?.kind !== 'replace') throw new Error('no replacement')
    const { source, offset, bytes } = change.value
    expect(new Uint8Array(await source.read(offset, bytes))).toEqual(rawOf([7, 3]).data)
    files['adapter_model.safetensors'] = weightsOf({ 'another.file': [1] })
    await expectRefusal(() => source.read(offset, bytes), 'safetensors-invalid', 'changed while it was read')
    delete files['adapter_model.safetensors']
    await expectRefusal(() => source.read(offset, bytes), 'file-missing', 'went away')
  })
})

describe('rows of tokens', () => {
  const rows = (indices: unknown, shape = [2, 3]) =>
    peftFiles(
      { ...LINEAR, 'embed_tokens.token_adapter.trainable_tokens_delta': shape },
      { trainable_token_indices: indices },
    )

  it('are given with their values', async () => {
    const { changes } = await read(rows({ embed_tokens: [6, 1] }))
    expect(changes.at(-1)).toMatchObject({ kind: 'rows', tensor: 'embed_tokens.weight', rows: [6, 1] })
  })

  it('may come with the rows that they replaced', async () => {
    const names = { 'embed_tokens.token_adapter.trainable_tokens_original': [1, 3] }
    const shapes = { ...LINEAR, 'embed_tokens.token_adapter.trainable_tokens_delta': [1, 3], ...names }
    const { changes } = await read(peftFiles(shapes, { trainable_token_indices: [4] }))
    expect(changes.at(-1)?.sources).toHaveLength(2)
  })

  it.each<[string, Files, string[]]>([
    ['a token beyond the vocabulary', rows([1, 7]), ['the token 7', 'the base has 7']],
    ['a token twice', rows([1, 1]), ['a token twice']],
    ['another number of rows', rows([1, 2, 3]), ['[2,3]', 'make [3,3]']],
    ['another width', rows([1, 2], [2, 4]), ['[2,4]']],
  ])('are refused with %s', async (_, files, words) => {
    await expectRefused(files, 'adapter-base', words)
  })
})

describe('the embedding', () => {
  it('has its tokens as inputs', async () => {
    const [change] = (await read(peftFiles(EMBEDDING))).changes
    expect(change).toMatchObject({ tensor: 'embed_tokens.weight', in: 7, out: 3, transposed: true })
  })

  it('is refused where its vocabulary is another', async () => {
    await expectRefused(peftFiles(EMBEDDING), 'adapter-base', ['embedding is [8,3]'], { 'embed_tokens.weight': [8, 3] })
  })

  it('is refused with the factors of a linear under the same name', async () => {
    const { problems } = await refusal(() => read(peftFiles({ ...EMBEDDING, 'embed_tokens.lora_A.weight': [2, 3] })))
    expect(problems.map(({ code }) => code)).toContain('tensor-unknown')
  })
})

describe('a folder without what PEFT writes', () => {
  it.each<[string, Files, ProblemCode, string[]]>([
    ['shards', { 'adapter_model.safetensors.index.json': '{}' }, 'adapter-format', ['shards', 'in one file']],
    [
      'diffusers’ pickle',
      { 'pytorch_lora_weights.bin': 'PK' },
      'adapter-format',
      ['pytorch_lora_weights.bin', 'pickle'],
    ],
  ])('with %s', async (_, extra, code, words) => {
    await expectRefused({ 'adapter_config.json': '{"peft_type":"LORA"}', ...extra }, code, words)
  })

  it('reports its config and its weights at once', async () => {
    const { problems } = await refusal(() => read({}))
    expect(problems.map(({ code }) => code)).toEqual(['file-missing', 'file-missing'])
  })

  it('reports a bad name and a bad weight beside the rest', async () => {
    const step = () => readChanges({ name: 'X', folder: memoryFolder('x', {}), weight: 0 }, baseOf(BASE))
    expect((await refusal(step)).problems).toHaveLength(4)
  })
})

describe('an ONNX target', () => {
  it('is told that the rest must be merged first', async () => {
    const shapes = { 'lm_head.lora_A.weight': [2, 3], 'lm_head.lora_B.weight': [7, 2] }
    const step = () => read(peftFiles(shapes), { 'model.layers.0.q.weight': [5, 3] }, { isPartial: true })
    await expectRefusal(step, 'adapter-target', '"lm_head"', 'merge it into the checkpoint first')
  })
})
