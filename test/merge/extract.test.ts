// A LoRA out of the difference of two checkpoints: exact where the rank allows, as good as an SVD where it does not.
import { Matrix, SingularValueDecomposition } from 'ml-matrix'
import { describe, expect, it } from 'vitest'
import { readChanges } from '../../compiler/adapter/read-changes.ts'
import { type ExtractOptions, extractAdapter } from '../../compiler/merge/extract.ts'
import { leadingPart } from '../../compiler/merge/leading-part.ts'
import { openBase } from '../../compiler/merge/open-base.ts'
import { type FloatTensorSource, readFloats } from '../../compiler/safetensors/stream.ts'
import { expectRefusal, refusal } from '../compiler/failing.ts'
import { type Files, memoryFolder, memoryOut } from '../compiler/folders.ts'
import { seeded } from '../compiler/random.ts'
import { adapter, encodeRaw, lowRank, mergeInMemory, randomTensor, readRaw } from './checkpoints.ts'

const random = seeded(21)
const tensors = {
  'model.embed_tokens.weight': randomTensor('F32', [40, 12], random),
  'model.layers.0.q_proj.weight': randomTensor('F32', [70, 53], random),
  'model.layers.1.q_proj.weight': randomTensor('F32', [70, 53], random),
  'model.norm.weight': randomTensor('F32', [12], random),
}
const base = { 'model.safetensors': encodeRaw(tensors), 'config.json': '{"architectures":["LlamaForCausalLM"]}' }

async function extract(before: Files, after: Files, options: Partial<ExtractOptions> = {}) {
  const out = memoryOut()
  const report = await extractAdapter(
    await openBase(memoryFolder('base', before)),
    await openBase(memoryFolder('tuned', after)),
    { rank: 3, baseModelNameOrPath: 'b', ...options },
    out,
  )
  return { report, files: Object.fromEntries(out.files) }
}

describe('extract', () => {
  it('finds an adapter that was merged, and merging what it found gives the same weights', async () => {
    const change = lowRank('model.layers.1.q_proj.weight', { r: 3, in: 53, out: 70 }, random)
    const merged = await mergeInMemory(base, [adapter('a', 1, [change])])
    const tuned = { ...base, 'model.safetensors': merged.files.get('model.safetensors')! }
    const { report, files } = await extract(base, tuned)
    expect(report.modules.map(({ module }) => module)).toEqual(['model.layers.1.q_proj'])
    expect(report.energyKept).toBeGreaterThan(1 - 1e-9)
    const opened = await openBase(memoryFolder('base', base))
    const found = await readChanges({ name: 'x', folder: memoryFolder('x', files) }, opened.tensors)
    const again = await mergeInMemory(base, [found])
    const values = async (file: Uint8Array) =>
      readFloats((await readRaw(file)).get('model.layers.1.q_proj.weight') as FloatTensorSource)
    const [one, two] = [await values(tuned['model.safetensors']), await values(again.files.get('model.safetensors')!)]
    one.forEach((value, i) => {
      expect(Math.abs(value - two[i]!)).toBeLessThan(2e-6)
    })
    expect(JSON.parse(Buffer.from(files['adapter_config.json']!).toString())).toMatchObject({
      r: 3,
      lora_alpha: 3,
      task_type: 'CAUSAL_LM',
      base_model_name_or_path: 'b',
      target_modules: ['model.layers.1.q_proj'],
    })
  })

  it('gives the same bytes each time', async () => {
    const other = encodeRaw({ ...tensors, 'model.layers.0.q_proj.weight': randomTensor('F32', [70, 53], random) })
    const [one, two] = [
      await extract(base, { ...base, 'model.safetensors': other }),
      await extract(base, { ...base, 'model.safetensors': other }),
    ]
    expect(one).toEqual(two)
  })

  it('refuses what a LoRA of linears cannot hold, or leaves it out when told to', async () => {
    const changed = {
      ...tensors,
      'model.embed_tokens.weight': randomTensor('F32', [40, 12], random),
      'model.layers.0.q_proj.weight': randomTensor('F32', [70, 53], random),
      'model.norm.weight': randomTensor('F32', [12], random),
    }
    const tuned = { ...base, 'model.safetensors': encodeRaw(changed) }
    const { problems } = await refusal(() => extract(base, tuned))
    expect(problems.map(({ code }) => code)).toEqual(['adapter-target', 'adapter-target'])
    const { report } = await extract(base, tuned, { skipOthers: true })
    expect(report.leftOut).toEqual(['model.embed_tokens.weight', 'model.norm.weight'])
  })

  it('refuses checkpoints that are equal, of two models, or of one that stores its linears transposed', async () => {
    await expectRefusal(() => extract(base, base), 'tensor-missing', 'differs')
    const reshaped = encodeRaw({ ...tensors, 'model.norm.weight': randomTensor('F32', [13], random) })
    await expectRefusal(() => extract(base, { ...base, 'model.safetensors': reshaped }), 'tensor-shape', 'norm')
    const gpt2 = { ...base, 'config.json': '{"model_type":"gpt2"}' }
    await expectRefusal(() => extract(gpt2, gpt2), 'config-unsupported', 'gpt2')
    for (const rank of [0, 1.5, Number.NaN, 70_000]) {
      await expectRefusal(() => extract(base, base, { rank }), 'adapter-rank')
    }
  })

  it('calls a NaN by its tensor', async () => {
    const broken = { dtype: 'F32', shape: [12], bytes: new Uint8Array(48).fill(0xff) } as const
    const tuned = { ...base, 'model.safetensors': encodeRaw({ ...tensors, 'model.norm.weight': broken }) }
    await expectRefusal(() => extract(base, tuned), 'tensor-not-finite', 'model.norm.weight')
  })
})

describe('the leading part', () => {
  it('is at most 1 % worse than that of a full SVD, where nothing stands out, and its error is measured', () => {
    for (const [rows, columns] of [
      [60, 90],
      [90, 60],
      [5, 40],
    ] as const) {
      const D = Float32Array.from({ length: rows * columns }, () => random() - 0.5)
      const values = new SingularValueDecomposition(Matrix.from1DArray(rows, columns, D), { autoTranspose: true })
        .diagonal
      for (const rank of [1, 4, 16]) {
        const { factors, truncation } = leadingPart(D, rows, columns, rank)
        const best = values.slice(rank).reduce((sum, value) => sum + value * value, 0)
        let lost = 0
        for (let i = 0; i < rows; i += 1) {
          for (let j = 0; j < columns; j += 1) {
            let sum = D[i * columns + j]!
            for (let k = 0; k < factors.r; k += 1) sum -= factors.B[i * factors.r + k]! * factors.A[k * columns + j]!
            lost += sum * sum
          }
        }
        expect(Math.abs(truncation.lost - lost)).toBeLessThan(1e-6 * truncation.energy)
        expect(lost).toBeLessThanOrEqual(1.01 * best + 1e-9 * truncation.energy)
      }
    }
  })

  it('of a matrix of lower rank is the matrix', () => {
    const change = lowRank('w', { r: 2, in: 31, out: 23 }, random)
    const D = new Float32Array(23 * 31)
    for (let i = 0; i < 23; i += 1) {
      for (let j = 0; j < 31; j += 1) {
        for (let k = 0; k < 2; k += 1) D[i * 31 + j]! += change.B[i * 2 + k]! * change.A[k * 31 + j]!
      }
    }
    const { factors, truncation } = leadingPart(D, 23, 31, 7)
    expect(truncation.lost).toBeLessThan(1e-12 * truncation.energy)
    expect(factors.r).toBeLessThanOrEqual(7)
  })
})
