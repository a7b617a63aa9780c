// An error of a run in a page → the sentences that the page shows.
import { InputError } from '../../compiler/errors.ts'
import { BackendError } from '../../gpu-backend/errors.ts'

const OUT_OF_MEMORY =
  /bad_alloc|out of memory|Array buffer allocation failed|failed to allocate|Invalid typed array length|Memory access out of bounds/i

export function sentences(error: unknown): string[] {
  if (error instanceof InputError) return error.problems.map(({ message }) => message)
  if (error instanceof BackendError) return [error.message]
  const words = error instanceof Error ? error.message : String(error)
  const name = error instanceof Error || error instanceof DOMException ? error.name : ''
  if (name === 'QuotaExceededError') {
    return [
      'the browser has no room left for this site; delete runs below or free some disk, the last checkpoint is whole',
    ]
  }
  if (name === 'TypeError' && /fetch/i.test(words)) {
    return ['the server of this page does not answer; start it again, the last checkpoint is whole']
  }
  if (OUT_OF_MEMORY.test(words)) {
    return [
      'the page has run out of memory; take fewer rows a step, shorter examples, recomputed activations or a base in int4. The last checkpoint is whole',
    ]
  }
  return [`a fault of sidepath's own, please report it: ${words}`]
}
