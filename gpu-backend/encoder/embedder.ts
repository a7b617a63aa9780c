// Texts in, vectors out: the rows of everybody's requests in shared runs, each with its own adapter, tenants in turn.
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Mix } from '../contract.ts'
import { notRouted } from '../engine/admission.ts'
import type { Adapters } from '../engine/engine.ts'
import { nonFinite } from '../engine/non-finite.ts'
import { Queue } from '../engine/queue.ts'
import type { EmbedRequest, Stats } from '../engine/request.ts'
import type { Resident } from '../engine/slots.ts'
import { BackendError } from '../errors.ts'

export interface EncoderRow {
  readonly tokens: readonly number[]
  readonly slot: number
}

export interface EmbedderOptions {
  /** One run of the graph: a vector a row, in the order of the rows. */
  readonly run: (rows: readonly EncoderRow[]) => Promise<Float32Array[]>
  /** Undefined where the graph has no low-rank path. */
  readonly adapters: Adapters | undefined
  readonly slots: number
  /** Requests that may wait. */
  readonly maxQueue: number
}

/** Of a run, padding included: enough for the kernels, and a run of a small encoder stays below a tenth of a second. */
const RUN_TOKENS = 1_024
/** What is given to one tenant at a time, so that a request of hundreds of texts does not hold the others up. */
const PART_TOKENS = 512

interface Job {
  readonly id: number
  readonly request: EmbedRequest
  readonly vectors: Float32Array[]
  left: number
  readonly resolve: (vectors: Float32Array[]) => void
  readonly reject: (error: unknown) => void
}

/** Rows of one request, of about one length. */
interface Part {
  readonly job: Job
  readonly tenant: string
  readonly cost: number
  /** Indices into the request's rows. */
  readonly rows: readonly number[]
  readonly longest: number
}

export class Embedder {
  readonly #options: EmbedderOptions
  readonly #queue = new Queue<Part>(Number.POSITIVE_INFINITY)
  readonly #jobs = new Map<number, Job>()
  readonly #counters = { steps: 0, prefillTokens: 0, decodeTokens: 0 }
  #running: readonly Part[] = []
  #loop: Promise<void> | undefined
  #wake: () => void = () => {}

  constructor(options: EmbedderOptions) {
    this.#options = options
  }

  get stats(): Stats {
    const { adapters, slots } = this.#options
    const namesOf = (parts: readonly Part[]) => new Set(parts.flatMap(({ job }) => job.request.adapter ?? []))
    const running = namesOf(this.#running)
    const active = new Set(this.#running.map(({ job }) => job.id))
    return {
      ...this.#counters,
      rows: this.#running.reduce((sum, { rows }) => sum + rows.length, 0),
      queued: [...this.#jobs.keys()].filter((id) => !active.has(id)).length,
      slots,
      free: adapters?.free ?? 0,
      adapterBytes: adapters?.hostBytes,
      running: [...running],
      waiting: [...namesOf(this.#queue.items())].filter((adapter) => !running.has(adapter)),
      kvUsed: 0,
    }
  }

  /** `id` is the caller's and fresh. Throws `BackendError`. */
  embed(id: number, request: EmbedRequest): Promise<Float32Array[]> {
    if (request.adapter !== null && this.#options.adapters === undefined) return Promise.reject(notRouted())
    if (this.#jobs.size >= this.#options.maxQueue) {
      return Promise.reject(new BackendError('queue_full', 'too many requests are waiting; try again later'))
    }
    return new Promise((resolve, reject) => {
      const job: Job = { id, request, vectors: [], left: request.rows.length, resolve, reject }
      this.#jobs.set(id, job)
      for (const part of partsOf(job)) this.#queue.add(part)
      this.#wake()
      this.#loop ??= this.#runs()
    })
  }

  /** What of it has not run will not, and nobody waits for the rest. */
  abort(id: number): void {
    const job = this.#jobs.get(id)
    if (job !== undefined) this.#end(job, new BackendError('request_invalid', 'the request was aborted'))
  }

  async stop(): Promise<void> {
    for (const id of [...this.#jobs.keys()]) this.abort(id)
    this.#wake()
    await this.#loop
  }

  async load(digest: string, mix?: Mix): Promise<number> {
    return this.#bank().load(digest, mix)
  }

  unload(digest: string): void {
    this.#bank().unload(digest)
  }

  residents(): Resident[] {
    return this.#options.adapters?.list() ?? []
  }

  /** To be wired to the adapters: a read has ended. */
  adapterLoaded(digest: string, error: unknown): void {
    for (const job of [...this.#jobs.values()]) {
      if (error !== undefined && job.request.adapter === digest) this.#end(job, error)
    }
    if (![...this.#jobs.values()].some(({ request }) => request.adapter === digest)) this.#bank().forget(digest)
    this.#wake()
  }

  async #runs(): Promise<void> {
    while (await nextTurn(true)) {
      if (this.#queue.size === 0) break
      const parts = this.#take()
      if (parts.length > 0) await this.#run(parts)
      else await new Promise<void>((resolve) => (this.#wake = resolve))
    }
    // With no turn in between, so that nobody submits to a loop that has decided to end.
    this.#loop = undefined
  }

  /** Parts that can run now, each with a slot pinned. */
  #take(): { part: Part; slot: number }[] {
    const taken: { part: Part; slot: number }[] = []
    let rows = 0
    let longest = 0
    for (const part of this.#queue.inTurn()) {
      const width = Math.max(longest, part.longest)
      if (taken.length > 0 && (rows + part.rows.length) * width > RUN_TOKENS) break
      const { adapter, mix } = part.job.request
      const slot = adapter === null ? 0 : this.#bank().pin(adapter, mix, part.tenant)
      if (typeof slot === 'string') continue
      this.#queue.serve(part)
      taken.push({ part, slot })
      rows += part.rows.length
      longest = width
    }
    return taken
  }

  async #run(taken: readonly { part: Part; slot: number }[]): Promise<void> {
    this.#running = taken.map(({ part }) => part)
    this.#counters.steps += 1
    const rows = taken.flatMap(({ part, slot }) =>
      part.rows.map((row) => ({ tokens: part.job.request.rows[row]!, slot })),
    )
    try {
      const vectors = await this.#options.run(rows)
      let at = 0
      for (const { part } of taken) {
        this.#give(part, vectors.slice(at, at + part.rows.length))
        at += part.rows.length
      }
      this.#counters.prefillTokens += rows.reduce((sum, { tokens }) => sum + tokens.length, 0)
    } catch (error) {
      for (const { part } of taken) this.#end(part.job, error)
    } finally {
      this.#running = []
      for (const { part } of taken) {
        const { adapter } = part.job.request
        if (adapter !== null) this.#bank().release(adapter)
      }
    }
  }

  #give({ job, rows }: Part, vectors: readonly Float32Array[]): void {
    if (!vectors.every((vector) => vector.every(Number.isFinite))) {
      this.#end(job, nonFinite())
      return
    }
    for (const [at, row] of rows.entries()) job.vectors[row] = vectors[at]!
    job.left -= rows.length
    if (job.left > 0) return
    this.#jobs.delete(job.id)
    job.resolve(job.vectors)
  }

  #end(job: Job, error: unknown): void {
    if (!this.#jobs.delete(job.id)) return
    for (const part of this.#queue.items()) if (part.job === job) this.#queue.drop(part)
    job.reject(error)
  }

  #bank(): Adapters {
    const { adapters } = this.#options
    if (adapters === undefined) throw notRouted()
    return adapters
  }
}

/** By length, so that a run pads little. */
function partsOf(job: Job): Part[] {
  const { rows, tenant } = job.request
  const order = rows.map((_, row) => row).sort((a, b) => rows[a]!.length - rows[b]!.length || a - b)
  const parts: Part[] = []
  let begun: number[] = []
  const close = (): void => {
    if (begun.length === 0) return
    const cost = begun.reduce((sum, row) => sum + rows[row]!.length, 0)
    parts.push({ job, tenant, cost, rows: begun, longest: rows[begun.at(-1)!]!.length })
    begun = []
  }
  for (const row of order) {
    if ((begun.length + 1) * rows[row]!.length > PART_TOKENS) close()
    begun.push(row)
  }
  close()
  return parts
}
