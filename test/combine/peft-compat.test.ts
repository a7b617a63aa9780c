// peft-compat against numbers that PEFT itself computed: 0.21 and later, and 0.20, which scaled twice.
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { combineModules } from '../../compiler/combine/combine.ts'
import type { CombineMethod, CombineOptions } from '../../compiler/combine/options.ts'
import {
  deltaOf,
  distance,
  largestDifference,
  norm,
  ORACLE,
  oracleInputs,
  randomModule,
  readInfo,
  readTensors,
} from './adapters.ts'

/** "ties_svd.total" → the options that PEFT was given. */
function optionsOf(name: string, peftCompat: true | '0.20'): CombineOptions {
  const { svd_rank: rank, density, majority_sign_method: majoritySign } = readInfo('peft').cases[name]!
  const method = name.split('.')[0] as CombineMethod
  return {
    method,
    peftCompat,
    ...(rank && { rank }),
    ...(density && { density }),
    ...(majoritySign && { majoritySign }),
    ...(method.startsWith('dare') && { seed: readInfo('peft').seed }),
  }
}

for (const [oracle, peftCompat] of [
  ['peft', true],
  ['legacy', '0.20'],
] as const) {
  describe(`PEFT ${readInfo(oracle).cases && oracle === 'peft' ? '0.21 and later' : 'up to 0.20'}`, async () => {
    const tensors = await readTensors(join(ORACLE, `${oracle}.safetensors`))
    test.each(Object.keys(readInfo(oracle).cases))('%s is within 1e-5 of PEFT, module by module', async (name) => {
      const inputs = await oracleInputs(readInfo(oracle).cases[name]!.adapters)
      const result = combineModules(inputs, optionsOf(name, peftCompat))
      const expected = [...tensors].filter(([key]) => key.startsWith(`${name}/`))
      expect(expected.map(([key]) => key.slice(name.length + 1)).sort()).toEqual([...result.modules.keys()].sort())
      for (const [key, { data }] of expected) {
        expect(norm(data)).toBeGreaterThan(0.5)
        expect(largestDifference(deltaOf(result, key.slice(name.length + 1)), data)).toBeLessThan(1e-5)
      }
    })
  })
}

describe('where PEFT differs from the algebra', async () => {
  const modern = await readTensors(join(ORACLE, 'peft.safetensors'))
  const legacy = await readTensors(join(ORACLE, 'legacy.safetensors'))
  const algebra = await readTensors(join(ORACLE, 'algebra.safetensors'))
  const modules = ['model.layers.0.self_attn.k_proj', 'model.layers.1.mlp.down_proj']
  const relative = (found: Float32Array, right: Float32Array) => distance(found, right) / norm(right)

  test.each(modules)("linear's cross terms put PEFT half of its size off the weighted sum of %s", async (module) => {
    const right = algebra.get(`exact.abc/${module}`)!.data
    expect(relative(modern.get(`linear/${module}`)!.data, right)).toBeGreaterThan(0.5)
    const ours = combineModules(await oracleInputs(['a', 'b', 'c']), { method: 'linear' })
    expect(largestDifference(deltaOf(ours, module), right)).toBeLessThan(1e-5)
  })

  test.each(modules)(
    'the scaling applied twice puts PEFT 0.20 half of its size off the best rank 5 of %s',
    async (module) => {
      const right = algebra.get(`svd/${module}`)!.data
      expect(relative(legacy.get(`svd/${module}`)!.data, right)).toBeGreaterThan(0.5)
      expect(relative(modern.get(`svd/${module}`)!.data, right)).toBeLessThan(1e-5)
    },
  )

  test.each(modules)(
    'a negative weight votes for what it takes away in the ties_svd of PEFT: a tenth off on %s',
    (module) => {
      const right = algebra.get(`ties_svd/${module}`)!.data
      expect(relative(modern.get(`ties_svd.total/${module}`)!.data, right)).toBeGreaterThan(0.1)
    },
  )

  test('each deviation is named in the notes, and the algebra has none to name', async () => {
    const inputs = await oracleInputs(['a', 'b', 'c'])
    const notes = (options: CombineOptions) => combineModules(inputs, options).notes.join('\n')
    expect(notes({ method: 'linear', peftCompat: true })).toContain('cross terms')
    expect(notes({ method: 'svd', peftCompat: '0.20' })).toContain('scaling twice')
    expect(notes({ method: 'svd', peftCompat: true })).toBe('')
    expect(notes({ method: 'ties_svd', density: 0.5, peftCompat: true })).toContain('before the weights')
    expect(notes({ method: 'dare_linear', density: 0.5, peftCompat: true })).toContain('global generator')
    for (const method of ['exact', 'linear', 'svd'] as const) expect(notes({ method })).toBe('')
    const single = combineModules(inputs.slice(0, 1), { method: 'svd', rank: 2, peftCompat: true })
    expect(single.notes.join()).toContain('PEFT turns svd into linear')
    expect(single.r).toBe(5)
  })

  test('without a rank PEFT gives every module the largest of all modules; the algebra the largest of its own', async () => {
    const wide = randomModule('wide', 7, 23, 17)
    const inputs = ['a', 'b'].map((name) => ({
      name,
      weight: 1,
      modules: new Map([
        ['m.narrow', randomModule(name, 5, 23, 17)],
        ['m.wide', wide],
      ]),
    }))
    const ranks = (peftCompat: boolean) =>
      combineModules(inputs, { method: 'svd', peftCompat }).report.map(({ rank }) => rank)
    expect(ranks(true)).toEqual([7, 7])
    expect(ranks(false)).toEqual([5, 7])
  })
})
