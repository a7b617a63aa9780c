// A job as it is on disk: jobs/<id>.json, whole or not there. What a run has done so far is not part of it.
import { readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import * as z from 'zod'
import { makeFolder } from '../runtime/disk.ts'
import { Job } from './contract.ts'
import { JobsError } from './errors.ts'
import { removePartials, writeWhole } from './partial-file.ts'
import { canonicalRecipe } from './recipe.ts'

const StoredJob = Job.omit({ progress: true, target: true }).extend({
  schema: z.literal('sidepath.job/1'),
  /** Runs that began and did not end, since the job was last asked for. */
  attempts: z.int().min(0),
})
export type StoredJob = z.infer<typeof StoredJob>

const FILE = /^([0-9a-f]{64})\.json$/

export class JobFiles {
  readonly #folder: string

  private constructor(folder: string) {
    this.#folder = folder
  }

  static async open(folder: string): Promise<JobFiles> {
    await makeFolder(folder, 0o700)
    await removePartials(folder)
    return new JobFiles(folder)
  }

  /** Every job, in the order in which they were asked for. Throws `data_invalid` for a file that is not ours. */
  async readAll(): Promise<StoredJob[]> {
    const jobs: StoredJob[] = []
    for (const name of await readdir(this.#folder)) {
      const [, id] = FILE.exec(name) ?? []
      if (id !== undefined) jobs.push(parse(await readFile(join(this.#folder, name), 'utf8'), id))
    }
    return jobs.sort((a, b) => a.queuedAt - b.queuedAt)
  }

  async write(job: StoredJob): Promise<void> {
    await writeWhole(join(this.#folder, `${job.id}.json`), `${JSON.stringify(job)}\n`)
  }

  async remove(id: string): Promise<void> {
    await rm(join(this.#folder, `${id}.json`), { force: true })
  }
}

function parse(text: string, id: string): StoredJob {
  try {
    const job = StoredJob.parse(JSON.parse(text))
    if (job.id === id && canonicalRecipe(job.recipe).id === id) return job
  } catch {
    // The sentence below is what the operator needs, whatever is wrong with the file.
  }
  throw new JobsError('data_invalid', `jobs/${id}.json is not a job of this version; restore it or delete it`)
}
