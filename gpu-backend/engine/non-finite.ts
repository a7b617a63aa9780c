// What a row ends with whose numbers are not finite; the batch goes on.
import { BackendError } from '../errors.ts'

export function nonFinite(): BackendError {
  return new BackendError('non_finite_logits', 'row produced non-finite logits; the adapter or its scaling is broken')
}
