// What combine refuses, and that it says every reason at once.
import { describe, expect, test } from 'vitest'
import { combineModules } from '../../compiler/combine/combine.ts'
import type { CombineInput } from '../../compiler/combine/input.ts'
import type { CombineOptions } from '../../compiler/combine/options.ts'
import { InputError } from '../../compiler/errors.ts'
import { randomInput, randomModule } from './adapters.ts'

function refusal(inputs: readonly CombineInput[], options: CombineOptions = {}): InputError {
  try {
    combineModules(inputs, options)
  } catch (error) {
    if (error instanceof InputError) return error
    throw error
  }
  throw new Error('nothing was refused')
}

const two = [randomInput('a', 0.5, 5), randomInput('b', 0.5, 5)]

describe('options', () => {
  test.each<[string, CombineOptions, RegExp]>([
    ['an unknown method', { method: 'tiez' as 'ties' }, /"tiez" is not known; choose one of exact, cat, svd/],
    ['a method of the prototype', { method: 'toString' as 'ties' }, /is not known/],
    ['no density', { method: 'ties' }, /ties needs a density/],
    ['density 0', { method: 'ties', density: 0 }, /density is 0; give the share/],
    ['density above 1', { method: 'dare_ties', density: 1.01 }, /density is 1.01/],
    ['density NaN', { method: 'ties', density: Number.NaN }, /density is NaN/],
    ['density without pruning', { method: 'svd', density: 0.5 }, /svd takes no density/],
    ['rank 0', { method: 'svd', rank: 0 }, /rank is 0/],
    ['rank 1.5', { method: 'svd', rank: 1.5 }, /rank is 1.5/],
    ['rank 65537', { method: 'svd', rank: 65_537 }, /rank is 65537; give a whole number from 1 to 65536/],
    ['a rank for exact', { method: 'exact', rank: 4 }, /exact takes no rank.*use svd/],
    ['seed 0.5', { method: 'dare_linear', density: 0.5, seed: 0.5 }, /seed is 0.5/],
    ['seed −1', { method: 'dare_linear', density: 0.5, seed: -1 }, /seed is -1/],
    ['seed 2³²', { method: 'dare_linear', density: 0.5, seed: 2 ** 32 }, /seed is 4294967296/],
    ['a seed where nothing is drawn', { method: 'ties', density: 0.5, seed: 3 }, /ties takes no seed/],
    [
      'an unknown majority sign method',
      { method: 'ties', density: 0.5, majoritySign: 'both' as 'total' },
      /"both"; choose total or frequency/,
    ],
    ['a majority sign without a vote', { method: 'svd', majoritySign: 'total' }, /svd takes no majoritySign/],
    ['epsilon beyond the density', { method: 'della', density: 0.5, epsilon: 0.5 }, /density ± epsilon/],
    ['gamma 1', { method: 'breadcrumbs', density: 0.5, gamma: 1 }, /gamma is 1/],
    [
      'peft-compat where PEFT has no such method',
      { method: 'della', density: 0.5, peftCompat: true },
      /PEFT has no della/,
    ],
  ])('%s', (_, options, message) => {
    const error = refusal(two, options)
    expect(error.code).toBe('adapter-option')
    expect(error.message).toMatch(message)
  })

  test('all of them at once', () => {
    expect(refusal(two, { method: 'dare_ties', density: 2, seed: -1, rank: 4 }).problems).toHaveLength(3)
  })
})

describe('inputs', () => {
  const module = randomModule('a', 5, 23, 17)
  const withModule = (change: object): CombineInput => ({
    name: 'a',
    weight: 1,
    modules: new Map([['m', { ...module, ...change }]]),
  })

  test.each<[string, CombineInput[], string, RegExp]>([
    ['none', [], 'adapter-name', /at least one/],
    ['a name twice', [two[0]!, two[0]!], 'adapter-name', /"a" is given twice/],
    ['weight NaN', [{ ...two[0]!, weight: Number.NaN }], 'adapter-weight', /weight is NaN/],
    ['weight infinity', [{ ...two[0]!, weight: Number.POSITIVE_INFINITY }], 'adapter-weight', /weight is Infinity/],
    ['weight 0', [{ ...two[0]!, weight: 0 }], 'adapter-weight', /weight is 0/],
    ['no modules', [{ name: 'a', weight: 1, modules: new Map() }], 'tensor-missing', /no modules/],
    ['NaN in A', [withModule({ A: module.A.with(7, Number.NaN) })], 'tensor-not-finite', /m.lora_A holds NaN/],
    ['infinity in B', [withModule({ B: module.B.with(0, Number.NEGATIVE_INFINITY) })], 'tensor-not-finite', /m.lora_B/],
    ['a scaling of NaN', [withModule({ scaling: Number.NaN })], 'adapter-option', /scaling NaN/],
    ['rank 0', [withModule({ r: 0 })], 'tensor-shape', /r=0/],
    ['a factor that is too short', [withModule({ A: module.A.subarray(1) })], 'tensor-shape', /114 values in lora_A/],
    [
      'modules of two bases',
      [two[0]!, { name: 'b', weight: 1, modules: new Map([['m', randomModule('b', 5, 24, 17)]]) }],
      'adapter-base',
      /m is 23 → 17 in adapter "a" but 24 → 17 in adapter "b"/,
    ],
  ])('%s', (_, inputs, code, message) => {
    const error = refusal(inputs)
    expect(error.code).toBe(code)
    expect(error.message).toMatch(message)
  })

  test.each(['ties', 'dare_ties', 'linear', 'magnitude_prune'] as const)(
    '%s of factors with different ranks, naming adapters and ranks',
    (method) => {
      const inputs = [randomInput('a', 1, 5), randomInput('b', 1, 3)]
      const density = method === 'linear' ? {} : { density: 0.5 }
      const error = refusal(inputs, { method, ...density, peftCompat: true })
      expect(error.code).toBe('adapter-rank')
      expect(error.message).toMatch(/m: .* needs equal ranks, but "a" has r=5, "b" has r=3; use/)
    },
  )

  test('slerp of one or three, and slerp or karcher of a negative weight', () => {
    expect(refusal([...two, randomInput('c', 1, 5)], { method: 'slerp' }).message).toMatch(/exactly 2 adapters, not 3/)
    expect(refusal(two.slice(1), { method: 'slerp' }).message).toMatch(/exactly 2 adapters, not 1/)
    for (const method of ['slerp', 'karcher'] as const) {
      expect(refusal([two[0]!, { ...two[1]!, weight: -1 }], { method }).message).toMatch(/"b": the weight is -1/)
    }
  })

  test('karcher of opposite adapters', () => {
    const module = randomModule('a', 5, 23, 17)
    const opposite = new Map([['m', { ...module, scaling: -module.scaling }]])
    const error = refusal([two[0]!, { name: 'b', weight: 0.5, modules: opposite }], { method: 'karcher' })
    expect(error.message).toMatch(/opposite directions/)
  })

  test('factors that overflow fp32', () => {
    const huge = { ...module, A: module.A.map((value) => value * 1e38), B: module.B.map((value) => value * 1e38) }
    const inputs = [{ name: 'a', weight: 1e3, modules: new Map([['m', huge]]) }]
    for (const options of [{}, { method: 'svd' }] as const) {
      expect(refusal(inputs, options).code).toBe('tensor-not-finite')
    }
  })
})
