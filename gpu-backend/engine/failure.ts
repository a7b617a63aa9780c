// Errors on their way between threads, where classes are lost.
import { InputError } from '../../compiler/errors.ts'
import { BackendError } from '../errors.ts'
import type { Failure } from './request.ts'

export function toFailure(error: unknown): Failure {
  if (error instanceof BackendError) return { code: error.code, message: error.message, param: error.param }
  // What the compiler's readers say of the artifact at the start.
  if (error instanceof InputError || (error instanceof Error && error.name === 'PathError')) {
    return { code: 'artifact_unsuitable', message: error.message, param: null }
  }
  const message = error instanceof Error ? (error.stack ?? error.message) : String(error)
  return { code: 'internal', message, param: null }
}

/** An `internal` failure stays an ordinary error: its message is for the log and not for the caller. */
export function toError({ code, message, param }: Failure): Error {
  return code === 'internal' ? new Error(message) : new BackendError(code, message, param)
}
