// Intruders, overlap and compression against numpy's SVDs of dense matrices.
import { describe, expect, it } from 'vitest'
import { stream } from '../../compiler/combine/threefry.ts'
import { compressTo } from '../../compiler/doctor/compress.ts'
import { krylovTriplets } from '../../compiler/doctor/krylov.ts'
import { diagnosed, oracle, withAdapters } from './adapters.ts'

describe.each(Object.entries(oracle.intruders))('intruders of %s', (folder, modules) => {
  it('are those that a full SVD of the base and of the changed weight shows', async () => {
    const { adapters } = await diagnosed([folder], 6)
    for (const { module, intruders } of adapters[0]?.modules ?? []) {
      const wanted = modules[module]!
      expect(intruders?.residual).toBeLessThan(1e-7)
      expect(intruders?.count).toBe(wanted.count)
      expect(intruders?.relativeNorm).toBeCloseTo(wanted.relativeNorm, 6)
      intruders?.values.forEach((value, i) => {
        expect(Math.abs(value / wanted.values[i]! - 1)).toBeLessThan(1e-6)
      })
      intruders?.cosines.forEach((cosine, i) => {
        expect(cosine).toBeCloseTo(wanted.cosines[i]!, 4)
      })
    }
    const total = Object.values(modules).reduce((sum, { count }) => sum + count, 0)
    expect(adapters[0]?.intruders).toBe(total)
  })
})

it('finds the leading triplets of a matrix larger than its basis, with the change kept apart', () => {
  const [rows, columns, r] = [700, 500, 3]
  const numbers = (name: string, count: number) => Float32Array.from(stream(3, name)(count), (value) => value - 0.5)
  const W = numbers('W', rows * columns)
  const change = { A: numbers('A', r * columns), B: numbers('B', rows * r), r, in: columns, out: rows, scaling: 2.4 }
  const { values, left, right, residual } = krylovTriplets({ W, rows, columns, change }, 4)
  const dense = W.slice()
  for (let i = 0; i < rows; i += 1) {
    for (let k = 0; k < r; k += 1) {
      for (let j = 0; j < columns; j += 1)
        dense[i * columns + j]! += 2.4 * change.B[i * r + k]! * change.A[k * columns + j]!
    }
  }
  expect(residual).toBeLessThan(1e-2)
  values.forEach((value, at) => {
    // u and v are unit vectors that the matrix maps to each other, whatever found them.
    const image = Float64Array.from({ length: rows }, (_, i) => {
      let sum = 0
      for (let j = 0; j < columns; j += 1) sum += dense[i * columns + j]! * right[at]![j]!
      return sum
    })
    image.forEach((entry, i) => {
      expect(Math.abs(entry - value * left[at]![i]!)).toBeLessThan(1e-4)
    })
  })
})

describe.each(Object.entries(oracle.overlaps))('overlap of %s', (pair, modules) => {
  it('has the principal angles, the cosine and the sign conflicts of the dense changes', async () => {
    const { overlaps } = await diagnosed(pair.split(' + '))
    expect(overlaps).toHaveLength(1)
    expect(overlaps[0]?.modules.map(({ module }) => module).sort()).toEqual(Object.keys(modules).sort())
    for (const { module, rows, ...found } of overlaps[0]?.modules ?? []) {
      const wanted = modules[module]!
      for (const key of ['writeOverlap', 'readOverlap', 'deltaCosine', 'cancelled'] as const) {
        expect(found[key], `${module} ${key}`).toBeCloseTo(wanted[key] as number, 6)
      }
      // An entry that is 0 but for rounding may have either sign.
      expect(found.signConflict).toBeCloseTo(wanted.signConflict as number, 3)
      for (const key of ['writeCosines', 'readCosines'] as const) {
        found[key].forEach((cosine, i) => {
          expect(cosine, `${module} ${key}`).toBeCloseTo((wanted[key] as number[])[i]!, 6)
        })
      }
      expect(rows).toBeGreaterThan(0)
    }
  })
})

describe.each(Object.entries(oracle.truncated))('%s compressed', (folder, { k, errors }) => {
  it(`to rank ${k} has the error of the truncated SVD, as numpy has it, and says so`, async () => {
    await withAdapters([folder], async (_, [adapter]) => {
      const { report, modules, total } = compressTo(adapter!, { of: 'rank', to: k })
      for (const { module, rank, frobeniusError } of report) {
        expect(rank).toBe(k)
        expect(modules.get(module)?.A).toHaveLength(k * modules.get(module)!.in)
        expect(Math.abs(frobeniusError - errors[module]!)).toBeLessThan(1e-5 * Math.max(1, errors[module]!))
      }
      expect(total.frobeniusError).toBeCloseTo(Math.hypot(...Object.values(errors)), 4)
    })
  })
})

describe('compression', () => {
  it('to a share of the energy keeps at least that, with the fewest directions', async () => {
    await withAdapters(['decaying-1/r16'], async (_, [adapter]) => {
      const { report, total } = compressTo(adapter!, { of: 'energy', to: 0.9 })
      expect(total.energyKept).toBeGreaterThanOrEqual(0.9)
      expect(report.map(({ rank }) => rank)).toEqual([6, 6, 6, 6])
    })
  })

  it.each([
    { of: 'rank', to: 0 },
    { of: 'rank', to: 1.5 },
    { of: 'energy', to: 0 },
    { of: 'energy', to: 1.01 },
  ] as const)('refuses $of $to', async (target) => {
    await withAdapters(['flat/r2'], async (_, [adapter]) => {
      expect(() => compressTo(adapter!, target)).toThrow(/give a rank from 1 to 65536, or a share of the energy/)
    })
  })
})
