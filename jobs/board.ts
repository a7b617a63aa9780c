// Jobs from being asked for to their end: one runs at a time, and every change of state is on disk before it is told.
import { join } from 'node:path'
import { isWorthAnother, requireBlobs, requireRoom } from './admit.ts'
import { Artifacts } from './artifacts.ts'
import { Blobs } from './blobs.ts'
import type { Recipe } from './contract.ts'
import { faultFields, JobsError, type Log } from './errors.ts'
import { failureOf } from './failure.ts'
import { type Entry, isFinal, JobList } from './job-list.ts'
import { type Limits, MAX_ATTEMPTS } from './limits.ts'
import { canonicalRecipe } from './recipe.ts'
import { type Outcome, type Run, startRun } from './run.ts'
import { JobFiles } from './stored-job.ts'
import { createTurns } from './turns.ts'
import { watch } from './watch.ts'

export interface BoardOptions {
  readonly folder: string
  readonly limits: Limits
  readonly log: Log
  /** Milliseconds since 1970. */
  readonly now: () => number
}

const FRESH = { state: 'queued', startedAt: null, endedAt: null, artifact: null, failure: null, attempts: 0 } as const

export class Board {
  readonly blobs: Blobs
  readonly artifacts: Artifacts
  readonly jobs: JobList
  readonly #options: BoardOptions
  /** Every change of a job, of the uploads it needs and of its artifact: none sees another half done. */
  readonly #inTurn = createTurns()
  #running: { readonly entry: Entry; readonly run: Run } | undefined
  #loop: Promise<void> = Promise.resolve()
  /** Set and read in turn only, so that no job is queued just as the loop gives up. */
  #looping = false
  #lastQueuedAt = 0
  readonly #ending = new AbortController()

  private constructor(options: BoardOptions, blobs: Blobs, artifacts: Artifacts, jobs: JobList) {
    this.#options = options
    this.blobs = blobs
    this.artifacts = artifacts
    this.jobs = jobs
  }

  /** What was queued or running when the process ended is queued again. Throws `data_invalid`. */
  static async open(options: BoardOptions): Promise<Board> {
    const { folder, limits } = options
    const files = await JobFiles.open(join(folder, 'jobs'))
    const stored = await files.readAll()
    const named = new Set(stored.flatMap(({ artifact }) => artifact ?? []))
    const blobs = await Blobs.open(join(folder, 'blobs'), limits)
    const artifacts = await Artifacts.open(join(folder, 'artifacts'), named)
    const board = new Board(options, blobs, artifacts, new JobList(files, stored))
    await board.#recover()
    board.#start()
    return board
  }

  get closed(): boolean {
    return this.#ending.signal.aborted
  }

  /** The same recipe is the same job; `fresh` where this call queued it. Throws `JobsError`. */
  submit(asked: Recipe): Promise<{ entry: Entry; fresh: boolean }> {
    const { id, recipe } = canonicalRecipe(asked)
    return this.#inTurn(async () => {
      const before = this.jobs.find(id)
      if (before !== undefined && !isWorthAnother(before)) return { entry: before, fresh: false }
      requireBlobs(this.blobs, recipe)
      requireRoom(this.jobs, before === undefined, this.#options.limits)
      const queuedAt = this.#nextQueuedAt()
      const entry = before ?? (await this.jobs.add({ schema: 'sidepath.job/1', id, recipe, queuedAt, ...FRESH }))
      if (before !== undefined) await this.jobs.change(before, { ...FRESH, queuedAt })
      this.#start()
      return { entry, fresh: true }
    })
  }

  /** Cancels a job that is not finished; forgets one that is, with its artifact unless another job has it too. */
  remove(id: string): Promise<Entry> {
    return this.#inTurn(async () => {
      const entry = this.jobs.get(id)
      if (!isFinal(entry)) {
        if (this.#running?.entry === entry) await this.#running.run.stop()
        await this.jobs.change(entry, { state: 'cancelled', endedAt: this.#options.now() })
        return entry
      }
      await this.jobs.remove(entry)
      const { artifact } = entry.stored
      const shared = this.jobs.all().some(({ stored }) => stored.artifact === artifact)
      if (artifact !== null && !shared) await this.artifacts.remove(artifact)
      return entry
    })
  }

  /** Throws `blob_in_use` or `not_found`. */
  removeBlob(sha256: string): Promise<void> {
    return this.#inTurn(async () => {
      if (this.jobs.needs(sha256)) throw new JobsError('blob_in_use', 'a job that is not finished needs this file')
      if (!(await this.blobs.remove(sha256))) throw new JobsError('not_found', 'no such file')
    })
  }

  /** See watch.ts. Ends without a final state when the board closes. */
  watch(entry: Entry, signal: AbortSignal): AsyncGenerator<Entry | undefined, void, undefined> {
    return watch(entry, AbortSignal.any([signal, this.#ending.signal]), this.#options.limits.keepAliveMs)
  }

  /** Stops the run; its job goes back to the queue for the next start. */
  async close(): Promise<void> {
    this.#ending.abort()
    await this.#inTurn(async () => {
      if (this.#running === undefined) return
      const { entry, run } = this.#running
      await run.stop()
      // An orderly end is no crash, so it does not count as an attempt.
      if (entry.stored.state !== 'running') return
      await this.jobs.change(entry, { state: 'queued', attempts: entry.stored.attempts - 1 })
    })
    await this.#loop
  }

  async #recover(): Promise<void> {
    for (const entry of this.jobs.all()) {
      const { state, artifact, attempts, queuedAt } = entry.stored
      this.#lastQueuedAt = queuedAt
      if (state === 'done' && !this.artifacts.has(artifact ?? '')) await this.jobs.change(entry, FRESH)
      if (state !== 'running') continue
      await this.jobs.change(
        entry,
        attempts < MAX_ATTEMPTS
          ? { state: 'queued' }
          : { state: 'failed', endedAt: this.#options.now(), failure: failureOf('job_crashed') },
      )
    }
  }

  #start(): void {
    if (this.#looping) return
    this.#looping = true
    this.#loop = this.#runAll()
  }

  async #runAll(): Promise<void> {
    try {
      while (await this.#inTurn(() => this.#begin())) {
        const outcome = await this.#running!.run.outcome
        await this.#inTurn(() => this.#settle(outcome))
      }
    } catch (error) {
      // The disk does not take the state of a job. What it has is older; the next job that it takes starts the loop again.
      this.#looping = false
      this.#options.log({ event: 'fault', ...faultFields(error) })
    }
  }

  /** False where there is nothing to run. */
  async #begin(): Promise<boolean> {
    // Nothing runs now: a job that says so could not be settled, and runs again.
    const [entry] = [...this.jobs.inState('running'), ...this.jobs.inState('queued')]
    if (entry === undefined || this.closed) {
      this.#looping = false
      return false
    }
    const { limits, log, now } = this.#options
    const { id, recipe, attempts } = entry.stored
    await this.jobs.change(entry, { state: 'running', startedAt: now(), attempts: attempts + 1 })
    const maxBytes = limits.artifactQuotaBytes - this.artifacts.usedBytes
    const run = startRun(
      { id, recipe, blobs: this.blobs.folder, artifacts: this.artifacts.folder, maxBytes },
      { timeoutMs: limits.jobTimeoutMs, onProgress: (progress) => this.jobs.setProgress(entry, progress), log },
    )
    this.#running = { entry, run }
    return true
  }

  async #settle(outcome: Outcome): Promise<void> {
    const { entry, run } = this.#running!
    this.#running = undefined
    try {
      // Cancelled, or asked for again since: what has ended is not what the job is about now.
      if (entry.stored.state === 'running' && outcome.kind !== 'stopped') await this.#record(entry, outcome)
    } finally {
      await run.stop()
    }
  }

  async #record(entry: Entry, outcome: Exclude<Outcome, { kind: 'stopped' }>): Promise<void> {
    const { log, now } = this.#options
    if (outcome.kind === 'failed') {
      await this.jobs.change(entry, { state: 'failed', endedAt: now(), failure: outcome.failure })
    } else {
      await this.artifacts.commit(outcome.staged, outcome.artifact)
      await this.jobs.change(entry, { state: 'done', endedAt: now(), artifact: outcome.artifact })
    }
    const { id, state, startedAt, endedAt, failure } = entry.stored
    log({ event: 'job', job: id, state, failure: failure?.code, ms: (endedAt ?? 0) - (startedAt ?? 0) })
  }

  /** Distinct, so that the order survives a restart. */
  #nextQueuedAt(): number {
    this.#lastQueuedAt = Math.max(this.#options.now(), this.#lastQueuedAt + 1)
    return this.#lastQueuedAt
  }
}
