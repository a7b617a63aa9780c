// Every method against the algebra, computed in numpy and double by test/parity/combine-oracle.py.
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { type CombineResult, combineModules } from '../../compiler/combine/combine.ts'
import { deltaOf, largestDifference, ORACLE, oracleInputs, readInfo, readTensors } from './adapters.ts'

const { density, seed, epsilon, gamma } = readInfo('algebra')
const ALL = ['a', 'b', 'c', 'd']
const MODULES = ['model.layers.0.self_attn.k_proj', 'model.layers.1.mlp.down_proj']

describe('against numpy in double', async () => {
  const tensors = await readTensors(join(ORACLE, 'algebra.safetensors'))
  const all = await oracleInputs(ALL)
  const weighted = async (weights: Record<string, number>) =>
    (await oracleInputs(Object.keys(weights))).map((input) => ({ ...input, weight: weights[input.name]! }))

  const cases: Record<string, () => CombineResult | Promise<CombineResult>> = {
    exact: () => combineModules(all),
    svd: () => combineModules(all, { method: 'svd', rank: 5 }),
    magnitude_prune_svd: () => combineModules(all, { method: 'magnitude_prune_svd', rank: 5, density }),
    ties_svd: () => combineModules(all, { method: 'ties_svd', rank: 5, density }),
    breadcrumbs: () => combineModules(all, { method: 'breadcrumbs', rank: 5, density, gamma }),
    breadcrumbs_ties: () => combineModules(all, { method: 'breadcrumbs_ties', rank: 5, density, gamma }),
    della_linear: () => combineModules(all, { method: 'della_linear', rank: 5, density, epsilon, seed }),
    della: () => combineModules(all, { method: 'della', rank: 5, density, epsilon, seed }),
    slerp: async () => combineModules(await oracleInputs(['a', 'd']), { method: 'slerp' }),
    karcher: async () => combineModules(await weighted({ a: 2, b: 1, d: 1 }), { method: 'karcher' }),
  }

  for (const [name, run] of Object.entries(cases)) {
    test.each(MODULES)(`${name} is within 1e-5 on %s`, async (module) => {
      const expected = tensors.get(`${name}/${module}`)!
      expect(largestDifference(deltaOf(await run(), module), expected.data)).toBeLessThan(1e-5)
    })
  }

  test('cat is exact by the name that PEFT gives it, and so is linear', () => {
    const [exact, cat, linear] = (['exact', 'cat', 'linear'] as const).map(
      (method) => combineModules(all, { method }).modules,
    )
    expect(cat).toEqual(exact)
    expect(linear).toEqual(exact)
  })

  test('magnitude_prune and dare_linear have no cross terms: opposite weights of one adapter leave nothing', () => {
    for (const method of ['magnitude_prune', 'exact'] as const) {
      const [a] = all
      const twice = [a!, { ...a!, name: 'again', weight: -a!.weight }]
      const result = combineModules(twice, method === 'exact' ? {} : { method, density })
      expect(largestDifference(deltaOf(result, MODULES[0]!), new Float64Array(48 * 24))).toBeLessThan(1e-6)
    }
  })
})
