// Adapters of mlx-lm and of kohya's scripts: the same change as from PEFT where the names leave no doubt.
import { describe, expect, it } from 'vitest'
import type { Change } from '../../compiler/adapter/change.ts'
import { readChanges } from '../../compiler/adapter/read-changes.ts'
import type { ProblemCode } from '../../compiler/errors.ts'
import { baseOf, peftFiles, rawOf, type Shapes, weightsOf } from './adapter-files.ts'
import { expectRefusal, refusal } from './failing.ts'
import { type Files, memoryFolder } from './folders.ts'
import { float32, parseRaw, type RawTensor, writeRaw } from './safetensors-file.ts'

const BASE: Shapes = {
  'model.layers.0.self_attn.q_proj.weight': [5, 3],
  'model.layers.1.self_attn.q_proj.weight': [5, 3],
  'model.embed_tokens.weight': [7, 3],
  'conv.weight': [5, 3, 2, 2],
}
const Q = 'model.layers.0.self_attn.q_proj'

const read = (files: Files, base: Shapes = BASE) =>
  readChanges({ name: 'x', folder: memoryFolder('x', files) }, baseOf(base))
const withoutSources = (changes: readonly Change[]) => changes.map((change) => ({ ...change, sources: undefined }))
const peft = async (shapes: Shapes, config: Record<string, unknown>) =>
  withoutSources((await read(peftFiles(shapes, config))).changes)
const scalar = (value: number): RawTensor => ({ dtype: 'F32', shape: [], data: float32([value]) })

/** [rows, columns] → [columns, rows] */
function flip({ shape: [rows = 0, columns = 0], data }: RawTensor): RawTensor {
  const values = new Float32Array(data.slice().buffer)
  const flipped = Array.from({ length: values.length }, (_, i) => values[(i % rows) * columns + Math.floor(i / rows)]!)
  return { dtype: 'F32', shape: [columns, rows], data: float32(flipped) }
}

describe('mlx-lm', () => {
  const mlx = (tensors: Record<string, RawTensor>, lora: Record<string, unknown> = {}, config = {}): Files => ({
    'adapters.safetensors': writeRaw(new Map(Object.entries(tensors))),
    'adapter_config.json': JSON.stringify({
      fine_tune_type: 'lora',
      num_layers: 1,
      learning_rate: 1e-5,
      lora_parameters: { rank: 2, scale: 20, dropout: 0, keys: ['self_attn.q_proj'], ...lora },
      ...config,
    }),
  })
  const tensors = (module: string) => ({
    [`${module}.lora_a`]: flip(rawOf([2, 3])),
    [`${module}.lora_b`]: flip(rawOf([5, 2])),
  })

  it('has transposed factors and a scale that is used as it is', async () => {
    const expected = await peft({ [`${Q}.lora_A.weight`]: [2, 3], [`${Q}.lora_B.weight`]: [5, 2] }, { lora_alpha: 40 })
    const { changes, loraAlpha } = await read(mlx(tensors(Q)))
    expect(withoutSources(changes)).toEqual(expected)
    expect(changes[0]).toMatchObject({ scaling: 20 })
    expect(loraAlpha).toBe(40)
  })

  it('has the magnitudes of DoRA in m', async () => {
    const files = mlx({ ...tensors(Q), [`${Q}.m`]: rawOf([5]) }, {}, { fine_tune_type: 'dora' })
    const [change] = (await read(files)).changes
    expect(change).toMatchObject({ magnitude: new Float32Array([1, 2, 3, 4, 5]) })
  })

  it('has embeddings, whose tokens are the inputs', async () => {
    const E = 'model.embed_tokens'
    const files = mlx({ [`${E}.lora_a`]: rawOf([7, 2]), [`${E}.lora_b`]: rawOf([2, 3]) })
    expect((await read(files)).changes[0]).toMatchObject({
      tensor: 'model.embed_tokens.weight',
      A: new Float32Array([1, 3, 5, 7, 9, 11, 13, 2, 4, 6, 8, 10, 12, 14]),
      in: 7,
      out: 3,
      transposed: true,
    })
  })

  it.each<[string, Files, ProblemCode, string[]]>([
    ['alpha, which versions read differently', mlx(tensors(Q), { alpha: 16 }), 'config-invalid', ['alpha', 'mlx-lm']],
    ['full fine-tuning', mlx(tensors(Q), {}, { fine_tune_type: 'full' }), 'config-invalid', ['fine_tune_type']],
    ['a scale of 0', mlx(tensors(Q), { scale: 0 }), 'config-invalid', ['scale']],
    ['DoRA without m', mlx(tensors(Q), {}, { fine_tune_type: 'dora' }), 'adapter-pair', ['no lora_magnitude_vector']],
    ['m without DoRA', mlx({ ...tensors(Q), [`${Q}.m`]: rawOf([5]) }), 'adapter-pair', ['has lora_magnitude_vector']],
    ['a whole weight', mlx({ ...tensors(Q), 'lm_head.weight': rawOf([7, 3]) }), 'tensor-unknown', ['mlx_lm.fuse']],
    ['an unknown module', mlx(tensors('model.q')), 'adapter-base', ['no linear "model.q"']],
    ['no config', { 'adapters.safetensors': weightsOf({ x: [1] }) }, 'file-missing', ['MLX writes it']],
    [
      'experts in one tensor',
      mlx({ [`${Q}.lora_a`]: rawOf([4, 2, 3]), [`${Q}.lora_b`]: rawOf([2, 5, 2]) }),
      'adapter-base',
      ['lora_A [4,2,3]'],
    ],
  ])('is refused with %s', async (_, files, code, words) => {
    await expectRefusal(() => read(files), code, 'adapter "x"', ...words)
  })
})

describe('mlx-lm, twice wrong', () => {
  it('is refused with another rank, for both factors', async () => {
    const files = {
      'adapters.safetensors': weightsOf({ [`${Q}.lora_a`]: [3, 2], [`${Q}.lora_b`]: [2, 5] }),
      'adapter_config.json': JSON.stringify({ lora_parameters: { rank: 3, scale: 1 } }),
    }
    const { problems } = await refusal(() => read(files))
    expect(problems.map(({ message }) => message.includes('has r=2 but adapter_config.json says r=3'))).toEqual([
      true,
      true,
    ])
  })

  it('is refused with DoRA on an embedding, whose magnitudes are by token', async () => {
    const E = 'model.embed_tokens'
    const files = {
      'adapters.safetensors': weightsOf({ [`${E}.lora_a`]: [7, 2], [`${E}.lora_b`]: [2, 3], [`${E}.m`]: [7] }),
      'adapter_config.json': JSON.stringify({ fine_tune_type: 'dora', lora_parameters: { rank: 2, scale: 1 } }),
    }
    await expectRefusal(() => read(files), 'tensor-shape', 'is [7] but the module has 3 outputs')
  })
})

describe('kohya and diffusers', () => {
  const pair = (module: string) => ({
    [`${module}.lora_up.weight`]: rawOf([5, 2]),
    [`${module}.lora_down.weight`]: rawOf([2, 3]),
  })
  const kohya = (tensors: Record<string, RawTensor>, path = 'pytorch_lora_weights.safetensors'): Files => ({
    [path]: writeRaw(new Map(Object.entries(tensors))),
  })
  const plain = () => peft({ [`${Q}.lora_A.weight`]: [2, 3], [`${Q}.lora_B.weight`]: [5, 2] }, { lora_alpha: 3 })

  it.each([
    ['paths', Q],
    ['paths with "_" for "."', 'model_layers_0_self_attn_q_proj'],
    ['such paths behind the name of the model', 'lora_te1_model_layers_0_self_attn_q_proj'],
  ])('name modules by %s', async (_, name) => {
    const { changes } = await read(kohya({ ...pair(name), [`${name}.alpha`]: scalar(3) }))
    expect(withoutSources(changes)).toEqual(await plain())
    expect(changes[0]?.sources).toHaveLength(3)
  })

  it('scale by 1 where there is no alpha', async () => {
    expect((await read(kohya(pair(Q), 'adapter_model.safetensors'))).changes[0]).toMatchObject({ scaling: 1 })
  })

  it('give each module its own alpha and rank', async () => {
    const R = Q.replace('.0.', '.1.')
    const third = { [`${R}.lora_up.weight`]: rawOf([5, 1]), [`${R}.lora_down.weight`]: rawOf([1, 3]) }
    const { changes } = await read(
      kohya({ ...pair(Q), [`${Q}.alpha`]: scalar(5), ...third, [`${R}.alpha`]: scalar(7) }),
    )
    expect(changes.map((change) => change.kind === 'low-rank' && [change.r, change.scaling])).toEqual([
      [2, 2.5],
      [1, 7],
    ])
  })

  it('have convolutions', async () => {
    const files = kohya({ 'conv.lora_up.weight': rawOf([5, 2, 1, 1]), 'conv.lora_down.weight': rawOf([2, 3, 2, 2]) })
    expect((await read(files)).changes[0]).toMatchObject({ tensor: 'conv.weight', in: 12, out: 5, r: 2 })
  })

  it.each<[string, Files, ProblemCode, string[]]>([
    ['no partner', kohya({ [`${Q}.lora_up.weight`]: rawOf([5, 2]) }), 'adapter-pair', ['lora_B but no lora_A']],
    ['lora_mid', kohya({ ...pair(Q), [`${Q}.lora_mid.weight`]: rawOf([2, 2]) }), 'tensor-unknown', ['lora_mid']],
    ['dora_scale', kohya({ ...pair(Q), [`${Q}.dora_scale`]: rawOf([5, 1]) }), 'tensor-unknown', ['dora_scale']],
    ['an alpha of 0', kohya({ ...pair(Q), [`${Q}.alpha`]: scalar(0) }), 'adapter-option', ['alpha is [0]']],
    ['a name of no module', kohya(pair('lora_unet_q')), 'adapter-base', ['"lora_unet_q" could be no module']],
    ['two ranks', kohya({ ...pair(Q), [`${Q}.lora_up.weight`]: rawOf([5, 3]) }), 'adapter-rank', ['lora_A has r=2']],
  ])('are refused with %s', async (_, files, code, words) => {
    await expectRefusal(() => read(files), code, 'adapter "x"', ...words)
  })

  it('are refused where "_" could be "." in two ways', async () => {
    const base = { 'a.b_c.weight': [5, 3], 'a_b.c.weight': [5, 3] }
    await expectRefusal(() => read(kohya(pair('a_b_c')), base), 'adapter-base', '"a.b_c" or "a_b.c"')
  })
})

describe('PEFT’s own tensors in a file of another dialect', () => {
  it('are refused by name', async () => {
    const { 'adapter_model.safetensors': file } = peftFiles({ [`${Q}.lora_A.weight`]: [2, 3] })
    const mixed = {
      'adapter_model.safetensors': writeRaw(
        new Map([...parseRaw(file as Uint8Array), ['a.lora_up.weight', rawOf([1])]]),
      ),
    }
    const step = () => read(mixed)
    await expect(step()).rejects.toThrow('is no lora_up, lora_down or alpha')
  })
})
