// The two ways to cut a rank, against the full SVD of the dense matrix.
import { Matrix, SingularValueDecomposition } from 'ml-matrix'
import { describe, expect, test } from 'vitest'
import { leadingTriplets } from '../../compiler/combine/block-lanczos.ts'
import { combineModules } from '../../compiler/combine/combine.ts'
import { thinQr } from '../../compiler/combine/thin-qr.ts'
import { distance, norm, product, randomInput, randomModule, randomValues } from './adapters.ts'

function fullSvd(D: ArrayLike<number>, rows: number, columns: number) {
  const matrix = Matrix.from1DArray(rows, columns, Float64Array.from(D))
  const svd = new SingularValueDecomposition(matrix, { autoTranspose: true })
  const best = (rank: number) => {
    const result = new Float64Array(rows * columns)
    for (let k = 0; k < rank; k += 1) {
      for (let i = 0; i < rows; i += 1) {
        const scaled = svd.diagonal[k]! * svd.leftSingularVectors.get(i, k)
        for (let j = 0; j < columns; j += 1) result[i * columns + j]! += scaled * svd.rightSingularVectors.get(j, k)
      }
    }
    return result
  }
  return { values: svd.diagonal, best }
}

function rebuild(
  { values, left, right }: ReturnType<typeof leadingTriplets>,
  rows: number,
  columns: number,
): Float64Array {
  const result = new Float64Array(rows * columns)
  values.forEach((value, k) => {
    for (let i = 0; i < rows; i += 1) {
      for (let j = 0; j < columns; j += 1) result[i * columns + j]! += value * left[k]![i]! * right[k]![j]!
    }
  })
  return result
}

describe('leading triplets of a dense matrix', () => {
  /** A low-rank signal with half of its entries zeroed: a few large values over a flat tail. */
  const pruned = (rows: number, columns: number) => {
    const mask = randomValues(rows * columns, 'mask')
    const signal = product(randomModule('signal', 7, columns, rows))
    return Float32Array.from(signal, (value, i) => (mask[i]! < 0 ? 0 : value))
  }

  test.each([
    [211, 173],
    [97, 311],
  ])('above a gap the rebuilt %i × %i matrix is that of the full SVD to 1e-6', (rows, columns) => {
    const D = pruned(rows, columns)
    const found = rebuild(leadingTriplets(D, rows, columns, 7), rows, columns)
    expect(distance(found, fullSvd(D, rows, columns).best(7)) / norm(D)).toBeLessThan(1e-6)
  })

  test.each([3, 16, 40])(
    'in a flat tail, where vectors are not determined, the error is within 1e-5 of the best at rank %i',
    (rank) => {
      const [rows, columns] = [211, 173]
      const D = pruned(rows, columns)
      const best = fullSvd(D, rows, columns).best(rank)
      const found = rebuild(leadingTriplets(D, rows, columns, rank), rows, columns)
      expect(distance(found, D) / distance(best, D)).toBeLessThan(1 + 1e-5)
    },
  )

  test('pure noise, the flattest spectrum, is within 1e-5 of the best too', () => {
    const D = randomValues(301 * 257, 'noise')
    const found = rebuild(leadingTriplets(D, 301, 257, 11), 301, 257)
    expect(distance(found, D) / distance(fullSvd(D, 301, 257).best(11), D)).toBeLessThan(1 + 1e-5)
  })

  test('values that repeat are all found', () => {
    const D = new Float32Array(60 * 50)
    for (let i = 0; i < 50; i += 1) D[i * 50 + i] = i < 9 ? 2 : 1
    expect(leadingTriplets(D, 60, 50, 12).values.map((value) => Math.round(value * 1e9) / 1e9)).toEqual([
      ...Array(9).fill(2),
      ...Array(3).fill(1),
    ])
  })

  test('a rank beyond the matrix gives all of it; zero gives zero; one row and one column work', () => {
    const D = randomValues(5 * 9, 'small')
    expect(distance(rebuild(leadingTriplets(D, 5, 9, 40), 5, 9), D)).toBeLessThan(1e-12)
    expect(leadingTriplets(new Float32Array(12), 3, 4, 2).values).toEqual([0])
    expect(leadingTriplets(new Float32Array([3, 4]), 1, 2, 1).values[0]).toBeCloseTo(5, 12)
    expect(leadingTriplets(new Float32Array([3, 4]), 2, 1, 1).values[0]).toBeCloseTo(5, 12)
  })

  test('vectors are orthonormal', () => {
    const { left, right } = leadingTriplets(pruned(97, 60), 97, 60, 9)
    for (const vectors of [left, right]) {
      vectors.forEach((a, i) => {
        vectors.forEach((b, j) => {
          const dot = a.reduce((sum, value, k) => sum + value * b[k]!, 0)
          expect(dot).toBeCloseTo(i === j ? 1 : 0, 10)
        })
      })
    }
  })
})

describe('thin QR and small SVD of the factors', () => {
  test.each([
    [40, 7],
    [7, 40],
    [7, 7],
    [1, 3],
    [3, 1],
  ])('rebuilds %i × %i, with orthonormal Q', (m, n) => {
    const source = randomValues(m * n, 'qr')
    const columns = Array.from({ length: n }, (_, j) => Float64Array.from(source.subarray(j * m, (j + 1) * m)))
    const { k, R, applyQ } = thinQr(columns, m)
    for (let j = 0; j < n; j += 1) {
      const column = applyQ(Float64Array.from({ length: k }, (_, i) => R[i * n + j]!))
      expect(distance(column, source.subarray(j * m, (j + 1) * m))).toBeLessThan(1e-13)
    }
  })

  test.each([
    [2, 5, 2],
    [16, 40, 30],
    [30, 9, 70],
    [9, 70, 9],
  ])('is the best approximation: rank %i of 4 adapters, %i → %i', (rank, columns, out) => {
    const inputs = ['a', 'b', 'c', 'd'].map((name, i) => randomInput(name, i - 1.5, 5, columns, out))
    const exact = product(combineModules(inputs).modules.get('m')!)
    const result = combineModules(inputs, { method: 'svd', rank })
    const best = fullSvd(exact, out, columns).best(Math.min(rank, columns, out))
    expect(distance(product(result.modules.get('m')!), best)).toBeLessThan(1e-5)
  })

  test('adapters that cancel out leave zeros, an error of 0 and all of the energy', () => {
    const a = randomInput('a', 1, 5)
    const result = combineModules([a, { ...a, name: 'b', weight: -1 }], { method: 'svd', rank: 3 })
    expect(norm(product(result.modules.get('m')!))).toBeLessThan(1e-12)
    expect(result.total.frobeniusError).toBeLessThan(1e-12)
  })

  test('factors that are rank-deficient, or zero, are no special case', () => {
    const A = new Float32Array(5 * 23).fill(1)
    const zero = { A, B: new Float32Array(17 * 5), r: 5, in: 23, out: 17, scaling: 1 }
    const inputs = [
      { name: 'a', weight: 1, modules: new Map([['m', { ...zero, B: new Float32Array(17 * 5).fill(2) }]]) },
      { name: 'b', weight: 1, modules: new Map([['m', zero]]) },
    ]
    const [report] = combineModules(inputs, { method: 'svd', rank: 1 }).report
    expect(report?.energyKept).toBeCloseTo(1, 12)
    const nothing = combineModules([inputs[1]!], { method: 'svd', rank: 1 })
    expect(nothing.total).toEqual({ energyKept: 1, frobeniusError: 0 })
  })

  test('each factor has half of the scale, so neither is much larger than the other', () => {
    const { A, B } = combineModules([randomInput('a', 100, 5)], { method: 'svd', rank: 3 }).modules.get('m')!
    expect(norm(A) / norm(B)).toBeCloseTo(1, 5)
  })
})
