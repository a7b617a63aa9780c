// How far two adapters work in the same directions of one module, and how far they pull against each other.
import type { LoraModule } from '../combine/input.ts'
import { smallSvd } from '../combine/small-svd.ts'
import type { Spectrum } from './spectrum.ts'

/** Entries of a module at which signs are compared: all of them below, evenly spaced rows above. */
const MAX_ENTRIES = 2 ** 20

export interface Overlap {
  /** Cosines of the principal angles, descending, of what the two changes write (columns of B) and read (rows of A). */
  readonly writeCosines: readonly number[]
  readonly readCosines: readonly number[]
  /** Mean of the squared cosines, 0 to 1: the share of the smaller subspace that lies in the other. */
  readonly writeOverlap: number
  readonly readOverlap: number
  /** ⟨ΔW₁, ΔW₂⟩ / (‖ΔW₁‖·‖ΔW₂‖), −1 to 1. */
  readonly deltaCosine: number
  /** Share of the entries where both are non-zero and their signs differ. */
  readonly signConflict: number
  /** 1 − Σ|a + b| / Σ(|a| + |b|): the share of the magnitude that is lost when the two are added. */
  readonly cancelled: number
  /** Rows that signs were compared in, of all. */
  readonly rows: number
}

export interface Measured {
  readonly module: LoraModule
  readonly spectrum: Spectrum
  /** Directions above rounding. */
  readonly rank: number
}

/**
 * With U₁, U₂ orthonormal bases, the cosines of the principal angles are the singular values of U₁ᵀ·U₂ (Björck and
 * Golub, 1973); here the leading singular vectors, of rank many. The inner product of the changes is
 * Σᵢⱼ σᵢ·τⱼ·(uᵢ·wⱼ)·(vᵢ·zⱼ). Signs, as TIES (2023) votes on them, are of s·B·A, a row at a time.
 */
export function overlapOf(first: Measured, second: Measured): Overlap {
  const left = innerProducts(vectors(first, 'left'), vectors(second, 'left'))
  const right = innerProducts(vectors(first, 'right'), vectors(second, 'right'))
  const writeCosines = cosines(left, first.rank, second.rank)
  const readCosines = cosines(right, first.rank, second.rank)
  let product = 0
  for (let i = 0; i < first.rank; i += 1) {
    for (let j = 0; j < second.rank; j += 1) {
      const at = i * second.rank + j
      const scale = (first.spectrum.values[i] as number) * (second.spectrum.values[j] as number)
      product += scale * (left[at] as number) * (right[at] as number)
    }
  }
  const norms = norm(first) * norm(second)
  return {
    writeCosines,
    readCosines,
    writeOverlap: meanSquare(writeCosines),
    readOverlap: meanSquare(readCosines),
    deltaCosine: norms === 0 ? 0 : product / norms,
    ...compareSigns(first.module, second.module),
  }
}

function vectors({ spectrum, rank }: Measured, side: 'left' | 'right'): Float64Array[] {
  return Array.from({ length: rank }, (_, i) => spectrum[side](i))
}

function innerProducts(xs: readonly Float64Array[], ys: readonly Float64Array[]): Float64Array {
  const result = new Float64Array(xs.length * ys.length)
  xs.forEach((x, i) => {
    ys.forEach((y, j) => {
      let sum = 0
      for (let k = 0; k < x.length; k += 1) sum += (x[k] as number) * (y[k] as number)
      result[i * ys.length + j] = sum
    })
  })
  return result
}

function cosines(products: Float64Array, rows: number, columns: number): number[] {
  if (rows === 0 || columns === 0) return []
  return smallSvd(products, rows, columns).values.map((value) => Math.min(1, value))
}

function meanSquare(values: readonly number[]): number {
  if (values.length === 0) return 0
  return values.reduce((sum, value) => sum + value * value, 0) / values.length
}

function norm({ spectrum, rank }: Measured): number {
  return Math.hypot(...spectrum.values.slice(0, rank))
}

function compareSigns(first: LoraModule, second: LoraModule): Pick<Overlap, 'signConflict' | 'cancelled' | 'rows'> {
  const { in: columns, out } = first
  const rows = Math.max(1, Math.min(out, Math.floor(MAX_ENTRIES / columns)))
  const a = new Float64Array(columns)
  const b = new Float64Array(columns)
  let [both, conflicts, joint, separate] = [0, 0, 0, 0]
  for (let i = 0; i < rows; i += 1) {
    const row = Math.floor((i * out) / rows)
    writeRow(first, row, a)
    writeRow(second, row, b)
    for (let j = 0; j < columns; j += 1) {
      const [x, y] = [a[j] as number, b[j] as number]
      if (x !== 0 && y !== 0) {
        both += 1
        if (x > 0 !== y > 0) conflicts += 1
      }
      joint += Math.abs(x + y)
      separate += Math.abs(x) + Math.abs(y)
    }
  }
  return {
    signConflict: both === 0 ? 0 : conflicts / both,
    cancelled: separate === 0 ? 0 : 1 - joint / separate,
    rows,
  }
}

/** Row `row` of s·B·A. */
function writeRow({ A, B, r, in: columns, scaling }: LoraModule, row: number, into: Float64Array): void {
  into.fill(0)
  for (let k = 0; k < r; k += 1) {
    const b = scaling * (B[row * r + k] as number)
    const start = k * columns
    for (let j = 0; j < columns; j += 1) into[j] = (into[j] as number) + b * (A[start + j] as number)
  }
}
