// Why a merged tensor is not finite: what went in was broken already, or the sum left the range of the stored type.
import { type InputError, inputError, quote } from '../errors.ts'
import { decodeFloats, firstNonFinite } from '../safetensors/decode.ts'
import type { TensorPlan } from './plan.ts'

/** `stored`: the bytes of the base, or of its replacement, where it was found. */
export function notFinite({ tensor, replacement, adapters }: TensorPlan, stored: Uint8Array): InputError {
  const names = `adapter ${adapters.map(quote).join(', ')}`
  const { dtype } = replacement ?? tensor
  if (firstNonFinite(decodeFloats(new Uint8Array(stored), dtype)) >= 0) {
    const whose =
      replacement === undefined ? `the base's ${quote(tensor.name)}` : `${names}: ${quote(replacement.name)}`
    return inputError('tensor-not-finite', `${whose} holds NaN or infinity; it is broken`)
  }
  return inputError(
    'merge-overflow',
    `merging ${names} into ${quote(tensor.name)} leaves the range of its type, ${tensor.dtype}; lower the weights`,
  )
}
