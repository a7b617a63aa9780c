// An adapter at a smaller rank, from the spectra that were computed already.
import { type Factors, requireFinite } from '../combine/combined.ts'
import type { LoraModule } from '../combine/input.ts'
import { MAX_RANK } from '../combine/options.ts'
import { thinQr } from '../combine/thin-qr.ts'
import { inputError, quote } from '../errors.ts'
import type { ReadAdapter } from './diagnose.ts'
import { type Figures, figuresOf } from './figures.ts'
import { columnsOf, rowsOf, type Spectrum, spectrumOf } from './spectrum.ts'

/** A rank for every module that has as many directions, or a share of each module's energy. */
export interface Target {
  readonly of: 'rank' | 'energy'
  readonly to: number
}

export interface CompressedModule {
  readonly module: string
  readonly rank: number
  readonly energyKept: number
  /** ‖s·B·A − B'·A'‖_F of the factors as they are stored, rounding to float32 included. */
  readonly frobeniusError: number
}

export interface Compressed {
  /** The delta of each is B'·A': the scaling is 1. */
  readonly modules: ReadonlyMap<string, Factors>
  readonly report: readonly CompressedModule[]
  readonly total: { readonly energyKept: number; readonly frobeniusError: number }
}

/**
 * The best change of rank k (Eckart and Young): its leading k triplets, B' = U·√σ and A' = √σ·Vᵀ. Modules whose change
 * is nothing are left out. Throws `InputError` for a target that is none, for an adapter that is more than its A and B,
 * and where nothing is left.
 */
export function compressTo({ name, modules: inputs, isWhole }: ReadAdapter, target: Target): Compressed {
  checkTarget(target)
  if (!isWhole) {
    throw inputError(
      'adapter-option',
      `adapter ${quote(name)} has more than lora_A and lora_B of linears (DoRA, biases, embeddings or tensors saved ` +
        'whole), which a smaller rank would lose; compress one that has not',
    )
  }
  const modules = new Map<string, Factors>()
  const report: CompressedModule[] = []
  const all = { energy: 0, lost: 0, error: 0 }
  for (const [module, input] of inputs) {
    const spectrum = spectrumOf(input)
    const figures = figuresOf(spectrum.values, spectrum.tolerance, input.r)
    if (figures.rank === 0) continue
    const k = rankFor(target, figures)
    const factors = leading(input, spectrum, k)
    requireFinite(factors, module)
    modules.set(module, factors)
    const squares = spectrum.values.map((value) => value * value)
    const lost = sum(squares.slice(k))
    const error = distance(input, factors)
    report.push({ module, rank: k, energyKept: 1 - lost / sum(squares), frobeniusError: error })
    all.energy += sum(squares)
    all.lost += lost
    all.error += error * error
  }
  if (modules.size === 0) {
    throw inputError('adapter-rank', 'the adapter changes nothing: every module is 0, so there is nothing to compress')
  }
  const total = { energyKept: 1 - all.lost / all.energy, frobeniusError: Math.sqrt(all.error) }
  return { modules, report, total }
}

function checkTarget({ of, to }: Target): void {
  const isRank = Number.isSafeInteger(to) && to >= 1 && to <= MAX_RANK
  if (of === 'rank' ? isRank : to > 0 && to <= 1) return
  throw inputError(
    'adapter-rank',
    `to compress to ${to}: give a rank from 1 to ${MAX_RANK}, or a share of the energy up to 1`,
  )
}

function rankFor({ of, to }: Target, { rank, energyAt }: Figures): number {
  if (of === 'rank') return Math.min(to, rank)
  return Math.min(rank, energyAt.findIndex((kept) => kept >= to) + 1)
}

function leading({ in: columns, out }: LoraModule, spectrum: Spectrum, k: number): Factors {
  const A = new Float32Array(k * columns)
  const B = new Float32Array(out * k)
  for (let i = 0; i < k; i += 1) {
    const root = Math.sqrt(spectrum.values[i] as number)
    const [u, v] = [spectrum.left(i), spectrum.right(i)]
    for (let j = 0; j < columns; j += 1) A[i * columns + j] = root * (v[j] as number)
    for (let j = 0; j < out; j += 1) B[j * k + i] = root * (u[j] as number)
  }
  return { A, B, r: k, in: columns, out }
}

/**
 * ‖s·B·A − B'·A'‖_F = ‖R_F·R_Gᵀ‖_F with thin QR of F = [s·B | −B'] and Gᵀ = [A; A']ᵀ: exact to double, where the
 * difference of the two squared norms would be all cancellation.
 */
function distance({ A, B, r, in: columns, out, scaling }: LoraModule, shorter: Factors): number {
  const n = r + shorter.r
  const F = thinQr([...columnsOf(B, out, r, scaling), ...columnsOf(shorter.B, out, shorter.r, -1)], out)
  const G = thinQr([...rowsOf(A, r, columns), ...rowsOf(shorter.A, shorter.r, columns)], columns)
  let total = 0
  for (let i = 0; i < F.k; i += 1) {
    for (let j = 0; j < G.k; j += 1) {
      let sum = 0
      for (let k = Math.max(i, j); k < n; k += 1) sum += (F.R[i * n + k] as number) * (G.R[j * n + k] as number)
      total += sum * sum
    }
  }
  return Math.sqrt(total)
}

/** Smallest first: `values` descend. */
function sum(values: readonly number[]): number {
  return values.reduceRight((total, value) => total + value, 0)
}
