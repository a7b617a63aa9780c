// What a method makes of one module, before it is rounded to fp32, and the step that does so.
import { inputError } from '../errors.ts'
import { firstNonFinite } from '../safetensors/decode.ts'

/** One module of the result: its delta is B·A, without any scaling. */
export interface Factors {
  /** Row-major [r, in]. */
  readonly A: Float32Array
  /** Row-major [out, r]. */
  readonly B: Float32Array
  readonly r: number
  readonly in: number
  readonly out: number
}

/** Squared Frobenius norms: of what was to be represented, and of what the rank left out. */
export interface Truncation {
  readonly energy: number
  readonly lost: number
}

export interface Combined {
  readonly factors: Factors
  /** Absent where no rank was cut. */
  readonly truncation?: Truncation
}

/** Throws `InputError` where the rounding to fp32 overflowed. */
export function requireFinite({ A, B }: Factors, module: string): void {
  if (firstNonFinite(A) < 0 && firstNonFinite(B) < 0) return
  throw inputError(
    'tensor-not-finite',
    `${module}: the combined factors overflow fp32; a weight, or the lora_alpha of an adapter, is absurd`,
  )
}
