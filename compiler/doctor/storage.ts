// What storing a factor in a float type does to it, and so which singular values of a product are only rounding.
import type { FloatDtype } from '../safetensors/dtypes.ts'

/** Unit roundoff: half the distance from 1 to the next number. F32 has 24 bits of significand, F16 11, BF16 8. */
const ROUNDOFF: Readonly<Record<FloatDtype, number>> = { F32: 2 ** -24, F16: 2 ** -11, BF16: 2 ** -8 }
/** Half the distance of two subnormal numbers: what rounding costs however small the number is. */
const UNDERFLOW: Readonly<Record<FloatDtype, number>> = { F32: 2 ** -150, F16: 2 ** -25, BF16: 2 ** -134 }

export interface StoredNorms {
  readonly dtype: FloatDtype
  readonly entries: number
  /** ‖·‖_F and ‖·‖₂. */
  readonly frobenius: number
  readonly spectral: number
}

/**
 * A bound on ‖B̃·Ã − B·A‖₂ where B̃ and Ã are B and A rounded to their types. Rounding moves an entry x by at most
 * u·|x| + η, so ‖δA‖_F ≤ u·‖A‖_F + η·√n, and to first order ‖δ(B·A)‖₂ ≤ ‖δB‖_F·‖A‖₂ + ‖B‖₂·‖δA‖_F. By Weyl no
 * singular value moves further: those at or below the bound may be of a product that has fewer.
 */
export function roundingOfProduct(B: StoredNorms, A: StoredNorms): number {
  return rounding(B) * A.spectral + B.spectral * rounding(A)
}

function rounding({ dtype, entries, frobenius }: StoredNorms): number {
  return ROUNDOFF[dtype] * frobenius + UNDERFLOW[dtype] * Math.sqrt(entries)
}
