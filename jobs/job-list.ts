// The jobs in memory: what is on disk of each, how far its run is, and who waits to hear of it.
import type { Job, JobSummary, Progress } from './contract.ts'
import { JobsError } from './errors.ts'
import { filesOf } from './recipe.ts'
import type { JobFiles, StoredJob } from './stored-job.ts'

export interface Entry {
  stored: StoredJob
  progress: Progress | null
  /** Grows with every change that somebody may want to see. */
  revision: number
  readonly waiting: Set<() => void>
}

type Change = Partial<Omit<StoredJob, 'id' | 'recipe' | 'schema'>>

export class JobList {
  readonly #files: JobFiles
  readonly #entries = new Map<string, Entry>()

  constructor(files: JobFiles, jobs: readonly StoredJob[]) {
    this.#files = files
    for (const job of jobs) this.#entries.set(job.id, entryOf(job))
  }

  get size(): number {
    return this.#entries.size
  }

  find(id: string): Entry | undefined {
    return this.#entries.get(id)
  }

  /** Throws `not_found`. */
  get(id: string): Entry {
    const entry = this.#entries.get(id)
    if (entry === undefined) throw new JobsError('not_found', 'no such job')
    return entry
  }

  /** In the order in which they were asked for. */
  all(): Entry[] {
    return [...this.#entries.values()].sort((a, b) => a.stored.queuedAt - b.stored.queuedAt)
  }

  inState(state: StoredJob['state']): Entry[] {
    return this.all().filter(({ stored }) => stored.state === state)
  }

  /** Whether a job that is to run yet needs the upload. */
  needs(digest: string): boolean {
    return [...this.inState('queued'), ...this.inState('running')].some(({ stored }) =>
      filesOf(stored.recipe).some((file) => file.digest === digest),
    )
  }

  /** On disk before it is in the list: what a caller was told of is not lost. */
  async add(job: StoredJob): Promise<Entry> {
    await this.#files.write(job)
    const entry = entryOf(job)
    this.#entries.set(job.id, entry)
    return entry
  }

  async change(entry: Entry, change: Change): Promise<void> {
    const stored = { ...entry.stored, ...change }
    await this.#files.write(stored)
    entry.stored = stored
    if (stored.state !== 'running') entry.progress = null
    announce(entry)
  }

  async remove(entry: Entry): Promise<void> {
    await this.#files.remove(entry.stored.id)
    this.#entries.delete(entry.stored.id)
    announce(entry)
  }

  setProgress(entry: Entry, progress: Progress): void {
    if (entry.stored.state !== 'running') return
    entry.progress = progress
    announce(entry)
  }
}

export function summaryOf({ stored, progress }: Entry): JobSummary {
  const { schema: _, attempts: __, recipe, ...rest } = stored
  return { ...rest, target: recipe.target, progress }
}

export function jobOf(entry: Entry): Job {
  return { ...summaryOf(entry), recipe: entry.stored.recipe }
}

export function isFinal(entry: Entry): boolean {
  return entry.stored.state !== 'queued' && entry.stored.state !== 'running'
}

function entryOf(stored: StoredJob): Entry {
  return { stored, progress: null, revision: 0, waiting: new Set() }
}

function announce(entry: Entry): void {
  entry.revision += 1
  for (const wake of entry.waiting) wake()
}
