// Whether a recipe is taken: its files are there, there is room, and it is not answered already.
import type { Blobs } from './blobs.ts'
import type { Recipe } from './contract.ts'
import { JobsError } from './errors.ts'
import type { Entry, JobList } from './job-list.ts'
import { type Limits, MAX_NAMED } from './limits.ts'
import { filesOf } from './recipe.ts'

/** Input that was refused stays refused; whatever else ended a job without an artifact may not happen again. */
export function isWorthAnother({ stored: { state, failure } }: Entry): boolean {
  return state === 'cancelled' || (state === 'failed' && failure?.code !== 'input_invalid')
}

/** Throws `queue_full` or, for a job that is not on record yet, `quota_exceeded`. */
export function requireRoom(jobs: JobList, isNew: boolean, { maxQueued, maxJobs }: Limits): void {
  if (jobs.inState('queued').length >= maxQueued) {
    throw new JobsError('queue_full', `${maxQueued} jobs are waiting; ask again later`)
  }
  if (isNew && jobs.size >= maxJobs) {
    throw new JobsError('quota_exceeded', `${maxJobs} jobs are on record; delete finished ones`)
  }
}

/** Throws `blob_missing`. */
export function requireBlobs(blobs: Blobs, recipe: Recipe): void {
  const missing = filesOf(recipe).filter(({ digest }) => blobs.sizeOf(digest) === undefined)
  if (missing.length === 0) return
  const names = missing.slice(0, MAX_NAMED).map(({ name, digest }) => `${name} (${digest})`)
  const more = missing.length > MAX_NAMED ? ` and ${missing.length - MAX_NAMED} more` : ''
  throw new JobsError('blob_missing', `upload these first: ${names.join(', ')}${more}`)
}
