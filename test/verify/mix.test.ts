// Mixing compiled adapters into the factors of one: exact, in any order, within a bank.
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { mixAdapters } from '../../compiler/mix-adapters.ts'
import type { CompiledModule } from '../../compiler/read-adapter.ts'
import { ORACLE, oracleInputs, readInfo, readTensors } from '../combine/adapters.ts'
import { expectRefusal } from '../compiler/failing.ts'
import { seeded } from '../compiler/random.ts'

const random = seeded(7)
const IN = 5
const OUT = 3

function module(r: number, inSize = IN, out = OUT): CompiledModule {
  const values = (count: number) => Float32Array.from({ length: count }, () => random() * 2 - 1)
  return { r, A: values(inSize * r), B: values(r * out) }
}

/** [in, out], in double. */
function product({ r, A, B }: CompiledModule): number[] {
  const [inSize, out] = [A.length / r, B.length / r]
  return Array.from({ length: inSize * out }, (_, at) => {
    const [i, o] = [Math.floor(at / out), at % out]
    return Array.from({ length: r }, (_, k) => A[i * r + k]! * B[k * out + o]!).reduce((sum, term) => sum + term, 0)
  })
}

const parts = () => [
  { name: 'a', weight: 0.7, modules: new Map([['m', module(2)]]) },
  {
    name: 'b',
    weight: -0.3,
    modules: new Map([
      ['m', module(3)],
      ['n', module(1, 4, 2)],
    ]),
  },
]

describe('a mix', () => {
  it('is the weighted sum of the products, of the rank of all together', () => {
    const [a, b] = parts()
    const mixed = mixAdapters([a!, b!])
    const found = mixed.get('m')!
    expect(found.r).toBe(5)
    const [deltaA, deltaB] = [product(a!.modules.get('m')!), product(b!.modules.get('m')!)]
    for (const [at, value] of product(found).entries()) {
      expect(value).toBeCloseTo(0.7 * deltaA[at]! - 0.3 * deltaB[at]!, 6)
    }
    for (const [at, value] of product(mixed.get('n')!).entries()) {
      expect(value).toBeCloseTo(-0.3 * product(b!.modules.get('n')!)[at]!, 6)
    }
    expect(mixed.get('n')!.r).toBe(1)
  })

  it('rounds w·B once and leaves A alone', () => {
    const [, b] = parts()
    const { A, B } = mixAdapters([b!]).get('n')!
    const source = b!.modules.get('n')!
    expect(A).toEqual(source.A)
    expect([...B]).toEqual([...source.B].map((value) => Math.fround(-0.3 * value)))
  })

  it('is the adapter itself, bit for bit, where it is alone at weight 1', () => {
    const modules = new Map([['m', module(4)]])
    expect(mixAdapters([{ name: 'a', modules }])).toEqual(modules)
  })

  it('has the same bits in any order', () => {
    const [a, b] = parts()
    expect(mixAdapters([b!, a!])).toEqual(mixAdapters([a!, b!]))
  })
})

describe('a mix of adapters that PEFT wrote', () => {
  it('has the deltas of its add_weighted_adapter with combination_type cat', async () => {
    const { weights, cases } = readInfo('peft')
    const inputs = await oracleInputs(cases.cat!.adapters)
    const transpose = (values: Float32Array, rows: number, columns: number, times = 1) =>
      Float32Array.from(
        { length: values.length },
        (_, at) => times * values[(at % rows) * columns + Math.floor(at / rows)]!,
      )
    const mixed = mixAdapters(
      inputs.map(({ name, modules }) => ({
        name,
        weight: weights[name]!,
        // As the compiler stores them: A [in, r], B [r, out], the scaling in B.
        modules: new Map(
          [...modules].map(([path, m]) => [
            path,
            { r: m.r, A: transpose(m.A, m.r, m.in), B: transpose(m.B, m.out, m.r, m.scaling) },
          ]),
        ),
      })),
    )
    expect(mixed.size).toBe(2)
    const oracle = await readTensors(join(ORACLE, 'peft.safetensors'))
    for (const [path, module] of mixed) {
      const { data, shape } = oracle.get(`cat/${path}`)!
      const [out = 0, inSize = 0] = shape
      const furthest = product(module).reduce(
        (most, value, at) => Math.max(most, Math.abs(value - data[(at % out) * inSize + Math.floor(at / out)]!)),
        0,
      )
      expect(furthest).toBeLessThan(1e-5)
      expect(Math.max(...data.map(Math.abs))).toBeGreaterThan(0.1)
    }
  })
})

describe('a mix is refused', () => {
  const mix = async (...args: Parameters<typeof mixAdapters>) => mixAdapters(...args)

  it('without parts', async () => {
    await expectRefusal(() => mix([]), 'adapter-name', 'at least one')
  })

  it('where a name is given twice', async () => {
    const [a] = parts()
    await expectRefusal(() => mix([a!, a!]), 'adapter-name', '"a"', 'twice')
  })

  it.each([0, Number.NaN, Number.NEGATIVE_INFINITY])('at the weight %s', async (weight) => {
    const [a] = parts()
    await expectRefusal(() => mix([{ ...a!, weight }]), 'adapter-weight', String(weight))
  })

  it('above the rank of the bank, not at it', async () => {
    expect(mixAdapters(parts(), { maxRank: 5 }).get('m')!.r).toBe(5)
    await expectRefusal(() => mix(parts(), { maxRank: 4 }), 'adapter-rank', '5', '"a" 2', '"b" 3', '4')
  })

  it('where the adapters have linears of different sizes', async () => {
    const other = { name: 'c', modules: new Map([['m', module(2, IN + 1)]]) }
    await expectRefusal(() => mix([parts()[0]!, other]), 'adapter-base', '5 → 3', '6 → 3')
  })

  it('where a weight overflows fp32', async () => {
    const huge = { name: 'a', weight: 1e39, modules: new Map([['m', module(2)]]) }
    await expectRefusal(() => mix([huge]), 'tensor-not-finite', 'lower the weights')
  })
})
