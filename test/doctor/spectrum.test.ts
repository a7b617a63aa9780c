// Spectra against numpy's SVD of the dense product, ranks that were planted, and memory.
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { stream } from '../../compiler/combine/threefry.ts'
import { figuresOf } from '../../compiler/doctor/figures.ts'
import { type StoredModule, spectrumOf } from '../../compiler/doctor/spectrum.ts'
import { decodeFloats } from '../../compiler/safetensors/decode.ts'
import type { FloatDtype } from '../../compiler/safetensors/dtypes.ts'
import { diagnosed, nameOf, oracle } from './adapters.ts'

describe.each(Object.entries(oracle.spectra))('%s', (folder, modules) => {
  it('has the singular values and figures of the dense product', async () => {
    const { adapters } = await diagnosed([folder])
    expect(adapters[0]?.name).toBe(nameOf(folder))
    expect(adapters[0]?.modules.map(({ module }) => module).sort()).toEqual(Object.keys(modules).sort())
    for (const found of adapters[0]?.modules ?? []) {
      const wanted = modules[found.module]!
      const scale = wanted.values[0]!
      found.values.forEach((value, i) => {
        expect(Math.abs(value - wanted.values[i]!)).toBeLessThan(1e-11 * scale)
      })
      expect(found.stableRank).toBeCloseTo(wanted.stableRank, 10)
      expect(found.effectiveRank).toBeCloseTo(wanted.effectiveRank, 8)
      expect(found.tail).toBeCloseTo(wanted.tail, 10)
      expect([found.k90, found.k99]).toEqual([wanted.k90, wanted.k99])
      found.energyAt.forEach((kept, i) => {
        expect(kept).toBeCloseTo(wanted.energyAt[i]!, 10)
      })
    }
  })
})

describe('a planted rank', () => {
  const dtypes: FloatDtype[] = ['F32', 'F16', 'BF16']

  it.each(dtypes)('is found exactly in factors of more columns that are stored as %s', (dtype) => {
    fc.assert(
      fc.property(
        fc.integer({ min: 0, max: 7 }),
        fc.integer({ min: 0, max: 8 }),
        fc.integer({ min: 1, max: 2 ** 31 }),
        fc.constantFrom(0.01, 1, 30),
        (rank, more, seed, size) => {
          const module = planted(rank, Math.max(1, rank + more), dtype, seed, size)
          const { values, tolerance } = spectrumOf(module)
          expect(figuresOf(values, tolerance, module.r).rank).toBe(rank)
        },
      ),
      { numRuns: 60 },
    )
  })

  it('of bfloat16 factors is not found by the tolerance of float32', () => {
    const module = planted(3, 9, 'BF16', 5, 1)
    const strict = spectrumOf({ ...module, dtypes: { A: 'F32', B: 'F32' } })
    expect(figuresOf(strict.values, strict.tolerance, 9).rank).toBeGreaterThan(3)
  })
})

it('of nothing is nothing', () => {
  const module: StoredModule = {
    ...{ A: new Float32Array(2 * 5).fill(1), B: new Float32Array(7 * 2), r: 2, in: 5, out: 7, scaling: 2 },
    dtypes: { A: 'F32', B: 'F32' },
  }
  const { values, tolerance } = spectrumOf(module)
  const figures = figuresOf(values, tolerance, 2)
  expect(figures).toMatchObject({ rank: 0, norm: 0, stableRank: 0, effectiveRank: 0, k90: 0, k99: 0, tail: 0 })
})

it('takes the memory of the factors and never that of the product', () => {
  // The product of float64 would take 8 GiB.
  const [size, r] = [32_768, 8]
  const numbers = stream(1, 'memory')
  const A = Float32Array.from(numbers(r * size), (value) => value - 0.5)
  const B = Float32Array.from(A)
  const before = process.memoryUsage()
  const { values } = spectrumOf({ A, B, r, in: size, out: size, scaling: 1, dtypes: { A: 'F32', B: 'F32' } })
  const after = process.memoryUsage()
  expect(values).toHaveLength(r)
  const taken = after.arrayBuffers + after.heapUsed - before.arrayBuffers - before.heapUsed
  expect(taken).toBeLessThan(20 * 8 * r * size)
})

/** B·A of exactly `rank` well-separated directions, mixed into r columns by a random matrix, then rounded to the type. */
function planted(rank: number, r: number, dtype: FloatDtype, seed: number, size: number): StoredModule {
  const [out, columns] = [37, 29]
  const draw = (name: string, count: number) => stream(seed >>> 0, name)(count).map((value) => 2 * value - 1)
  const left = orthonormal(draw('left', out * rank), out, rank)
  const right = orthonormal(draw('right', columns * rank), columns, rank)
  const mix = orthonormal(draw('mix', r * rank), r, rank)
  const B = new Float32Array(out * r)
  const A = new Float32Array(r * columns)
  for (let k = 0; k < rank; k += 1) {
    for (let j = 0; j < r; j += 1) {
      for (let i = 0; i < out; i += 1) B[i * r + j] = B[i * r + j]! + size * left[k]![i]! * mix[k]![j]!
      for (let i = 0; i < columns; i += 1) A[j * columns + i] = A[j * columns + i]! + mix[k]![j]! * right[k]![i]!
    }
  }
  return {
    ...{ A: rounded(A, dtype), B: rounded(B, dtype), r, in: columns, out, scaling: 12 / 5 },
    dtypes: { A: dtype, B: dtype },
  }
}

/** `count` orthonormal vectors of `length`, by Gram–Schmidt twice. */
function orthonormal(values: Float64Array, length: number, count: number): Float64Array[] {
  const vectors: Float64Array[] = []
  for (let k = 0; k < count; k += 1) {
    const vector = values.slice(k * length, (k + 1) * length)
    for (let pass = 0; pass < 2; pass += 1) {
      for (const other of vectors) {
        const dot = vector.reduce((sum, value, i) => sum + value * other[i]!, 0)
        vector.forEach((value, i) => {
          vector[i] = value - dot * other[i]!
        })
      }
    }
    const norm = Math.hypot(...vector)
    vectors.push(vector.map((value) => value / norm))
  }
  return vectors
}

/** To the nearest number of the type, by search among its bits: independent of the writer's own rounding. */
function rounded(values: Float32Array, dtype: FloatDtype): Float32Array {
  if (dtype === 'F32') return values
  const all = allNumbers(dtype)
  return values.map((value) => {
    let [low, high] = [0, all.length - 1]
    while (high - low > 1) {
      const middle = (low + high) >> 1
      if (all[middle]! <= value) low = middle
      else high = middle
    }
    return value - all[low]! <= all[high]! - value ? all[low]! : all[high]!
  })
}

const numbers = new Map<FloatDtype, Float32Array>()

/** Every finite number of a 16-bit type, ascending. */
function allNumbers(dtype: FloatDtype): Float32Array {
  const known = numbers.get(dtype)
  if (known !== undefined) return known
  const bits = Uint16Array.from({ length: 0x10000 }, (_, i) => i)
  const all = decodeFloats(new Uint8Array(bits.buffer), dtype).filter(Number.isFinite).sort()
  numbers.set(dtype, all)
  return all
}
