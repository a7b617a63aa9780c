// What must hold for any adapters.
import fc from 'fast-check'
import { expect, test } from 'vitest'
import { combineModules } from '../../compiler/combine/combine.ts'
import type { CombineInput } from '../../compiler/combine/input.ts'
import { type CombineMethod, METHODS } from '../../compiler/combine/options.ts'
import { deltaOf, distance, norm, randomModule, weightedSum } from './adapters.ts'

const SEED = 20261123
const runs = (numRuns: number) => ({ seed: SEED, numRuns })
const Weight = fc.double({ min: 0.1, max: 2, noNaN: true })
const Size = fc.integer({ min: 1, max: 40 })

/** 1 to 4 adapters of different ranks over two modules, which some lack. */
const Inputs: fc.Arbitrary<CombineInput[]> = fc
  .record({
    sizes: fc.tuple(Size, Size, Size, Size),
    adapters: fc.array(
      fc.record({
        weight: Weight,
        negative: fc.boolean(),
        rank: fc.integer({ min: 1, max: 7 }),
        has: fc.integer({ min: 1, max: 3 }),
      }),
      { minLength: 1, maxLength: 4 },
    ),
  })
  .map(({ sizes: [in1, out1, in2, out2], adapters }) =>
    adapters.map(({ weight, negative, rank, has }, i) => {
      const modules = new Map<string, ReturnType<typeof randomModule>>()
      if (has & 1) modules.set('m.first', randomModule(`${i}/1`, rank, in1, out1, 12 / 5))
      if (has & 2) modules.set('m.second', randomModule(`${i}/2`, rank + 1, in2, out2, 7 / 3))
      return { name: `adapter-${i}`, weight: negative ? -weight : weight, modules }
    }),
  )

const options = (method: CombineMethod) => ({ method, ...('prune' in METHODS[method] ? { density: 0.7 } : {}) })
const ANY_INPUT = (Object.keys(METHODS) as CombineMethod[]).filter(
  (method) => method !== 'slerp' && method !== 'karcher',
)

test('exact is the dense weighted sum', () => {
  fc.assert(
    fc.property(Inputs, (inputs) => {
      const result = combineModules(inputs)
      for (const module of result.modules.keys()) {
        const expected = weightedSum(inputs, module)
        expect(distance(deltaOf(result, module), expected)).toBeLessThan(1e-6 * (1 + norm(expected)))
      }
    }),
    runs(60),
  )
})

test('svd at full rank is exact, and keeps all energy', () => {
  fc.assert(
    fc.property(Inputs, (inputs) => {
      const result = combineModules(inputs, { method: 'svd', rank: 40 })
      for (const { module, energyKept, frobeniusError } of result.report) {
        const expected = weightedSum(inputs, module)
        expect(distance(deltaOf(result, module), expected)).toBeLessThan(2e-6 * (1 + norm(expected)))
        expect(energyKept).toBeCloseTo(1, 12)
        expect(frobeniusError).toBeLessThan(1e-9 * (1 + norm(expected)))
      }
    }),
    runs(60),
  )
})

test("svd's report is the truth: the error is the distance, and energy lost is its square", () => {
  fc.assert(
    fc.property(Inputs, fc.integer({ min: 1, max: 6 }), (inputs, rank) => {
      const result = combineModules(inputs, { method: 'svd', rank })
      let lost = 0
      for (const { module, energyKept, frobeniusError, rank: found } of result.report) {
        const expected = weightedSum(inputs, module)
        const size = norm(expected)
        expect(found).toBeLessThanOrEqual(rank)
        expect(Math.abs(distance(deltaOf(result, module), expected) - frobeniusError)).toBeLessThan(2e-6 * (1 + size))
        expect(1 - energyKept).toBeCloseTo((frobeniusError / size) ** 2, 9)
        lost += frobeniusError ** 2
      }
      expect(result.total.frobeniusError).toBeCloseTo(Math.sqrt(lost), 9)
    }),
    runs(60),
  )
})

test('a larger rank never has a larger error', () => {
  fc.assert(
    fc.property(Inputs, (inputs) => {
      const errors = [1, 2, 3, 4, 5].map((rank) => combineModules(inputs, { method: 'svd', rank }).total.frobeniusError)
      errors.slice(1).forEach((error, i) => {
        expect(error).toBeLessThanOrEqual(errors[i]! + 1e-9)
      })
    }),
    runs(30),
  )
})

test('the order of the adapters is irrelevant, bit for bit, in every method', () => {
  for (const method of Object.keys(METHODS) as CombineMethod[]) {
    const names = method === 'slerp' ? ['b', 'a'] : ['c', 'a', 'b']
    const inputs = names.map((name, i) => ({
      name,
      weight: 0.3 + i,
      modules: new Map([['m', randomModule(name, 5, 23, 17)]]),
    }))
    const forward = combineModules(inputs, options(method))
    expect(combineModules([...inputs].reverse(), options(method)).modules).toEqual(forward.modules)
    expect(combineModules(inputs, options(method)).modules).toEqual(forward.modules)
  }
})

test.each(ANY_INPUT)('negated weights negate the result of %s', (method) => {
  const inputs = ['a', 'b', 'c'].map((name, i) => ({
    name,
    weight: i - 0.6,
    modules: new Map([['m', randomModule(name, 5, 23, 17)]]),
  }))
  for (const peftCompat of [false, ...('inPeft' in METHODS[method] ? [true] : [])]) {
    const plus = combineModules(inputs, { ...options(method), peftCompat })
    const minus = combineModules(
      inputs.map((input) => ({ ...input, weight: -input.weight })),
      { ...options(method), peftCompat },
    )
    const sum = deltaOf(plus, 'm').map((value, i) => value + deltaOf(minus, 'm')[i]!)
    expect(norm(deltaOf(plus, 'm'))).toBeGreaterThan(1)
    expect(norm(sum)).toBeLessThan(1e-5)
  }
})

test('density 1 prunes nothing: the pruned sums are exact, the _svd forms are svd', () => {
  const inputs = ['a', 'b'].map((name) => ({
    name,
    weight: 0.8,
    modules: new Map([['m', randomModule(name, 5, 23, 17)]]),
  }))
  const exact = deltaOf(combineModules(inputs), 'm')
  const svd = deltaOf(combineModules(inputs, { method: 'svd', rank: 3 }), 'm')
  for (const method of ['magnitude_prune', 'dare_linear'] as const) {
    expect(distance(deltaOf(combineModules(inputs, { method, density: 1 }), 'm'), exact)).toBeLessThan(1e-6)
  }
  for (const method of ['magnitude_prune_svd', 'dare_linear_svd', 'della_linear', 'breadcrumbs'] as const) {
    expect(distance(deltaOf(combineModules(inputs, { method, density: 1, rank: 3 }), 'm'), svd)).toBeLessThan(1e-5)
  }
})

test('slerp ends at its ends and has no preferred direction; karcher of two is slerp', () => {
  const at = (a: number, b: number, method: 'slerp' | 'karcher' = 'slerp') =>
    deltaOf(
      combineModules(
        [
          { name: 'a', weight: a, modules: new Map([['m', randomModule('a', 5, 23, 17)]]) },
          { name: 'b', weight: b, modules: new Map([['m', randomModule('b', 3, 23, 17)]]) },
        ],
        { method },
      ),
      'm',
    )
  const ofA = weightedSum([{ name: 'a', weight: 1, modules: new Map([['m', randomModule('a', 5, 23, 17)]]) }], 'm')
  expect(distance(at(1, 1e-9), ofA)).toBeLessThan(1e-5)
  expect(distance(at(2, 6), at(1, 3))).toBeLessThan(1e-5)
  const direction = (values: Float64Array) => values.map((value) => value / norm(values))
  for (const t of [0.2, 0.5]) {
    // slerp's path between points of different lengths bends; its direction on the sphere is the mean's at t = ½ only
    // for equal lengths, so both are compared on unit deltas.
    const unit = (name: string, r: number, weight: number) => {
      const module = randomModule(name, r, 23, 17)
      const size = norm(weightedSum([{ name, weight: 1, modules: new Map([['m', module]]) }], 'm'))
      return { name, weight, modules: new Map([['m', { ...module, scaling: module.scaling / size }]]) }
    }
    const inputs = [unit('a', 5, 1 - t), unit('b', 3, t)]
    const [slerp, karcher] = (['slerp', 'karcher'] as const).map((method) =>
      deltaOf(combineModules(inputs, { method }), 'm'),
    )
    expect(distance(slerp!, karcher!)).toBeLessThan(1e-6)
    expect(norm(direction(slerp!))).toBeCloseTo(1, 9)
  }
})

test('a module that only some adapters have is combined from those', () => {
  const a = { name: 'a', weight: 0.5, modules: new Map([['m', randomModule('a', 5, 23, 17)]]) }
  const b = { name: 'b', weight: 0.5, modules: new Map([['other', randomModule('b', 5, 11, 13)]]) }
  for (const method of Object.keys(METHODS) as CombineMethod[]) {
    const result = combineModules([a, b], options(method))
    expect([...result.modules.keys()]).toEqual(['m', 'other'])
    expect(norm(deltaOf(result, 'm'))).toBeGreaterThan(0.5)
  }
})
