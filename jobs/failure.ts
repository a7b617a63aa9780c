// What a job says of its end. Problems of the input are told in full; of anything else, only what its kind is.
import { InputError } from '../compiler/errors.ts'
import type { Failure } from './contract.ts'
import { JobsError } from './errors.ts'

const MESSAGES: Readonly<Record<Failure['code'], string>> = {
  input_invalid: 'the input is refused; see problems',
  quota_exceeded: 'the artifact needs more room than is left; delete finished jobs and ask again',
  storage_full: 'the disk of the service is full; ask again when there is room',
  out_of_memory: 'the job needs more memory than it may have',
  job_timeout: 'the job ran longer than it may',
  job_crashed: 'the service ended each time that it ran this job',
  internal_error: 'internal error; ask again, and report it with the id of the job if it stays',
}

export function failureOf(code: Failure['code'], problems: Failure['problems'] = []): Failure {
  return { code, message: MESSAGES[code], problems }
}

export function toFailure(error: unknown): Failure {
  if (error instanceof InputError) {
    return failureOf(
      'input_invalid',
      error.problems.map(({ code, message }) => ({ code, message })),
    )
  }
  if (error instanceof JobsError && error.code === 'quota_exceeded') return failureOf('quota_exceeded')
  const code = error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined
  if (code === 'ENOSPC' || code === 'EDQUOT') return failureOf('storage_full')
  if (code === 'ERR_WORKER_OUT_OF_MEMORY') return failureOf('out_of_memory')
  return failureOf('internal_error')
}
