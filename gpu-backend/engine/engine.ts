// Continuous batching: at every step rows may join, run and leave, each with its own adapter and its own sampler.
// Sees rows, tokens and slots; tensors are the model's affair.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { BackendError } from '../errors.ts'
import type { Decode } from '../text/writer.ts'
import { Generation } from './generation.ts'
import type { Input, Model, Output } from './model.ts'
import { Queue } from './queue.ts'
import type { Failure, GenerateRequest, RowEvent, Stats } from './request.ts'
import type { Pinned } from './residency.ts'
import { planPrefill } from './schedule.ts'
import type { Resident } from './slots.ts'

/** Requests that find a slot overtake one that does not, this many times; after that it is waited for. */
const MAX_OVERTAKEN = 32

export interface Adapters {
  readonly free: number
  pin(digest: string): Pinned
  release(digest: string): void
  forget(digest: string): void
  load(digest: string): Promise<number>
  unload(digest: string): void
  list(): Resident[]
}

export interface EngineOptions {
  readonly model: Model
  /** Undefined where the graph has no low-rank path: it serves the base alone. */
  readonly adapters: Adapters | undefined
  readonly slots: number
  readonly endIds: ReadonlySet<number>
  readonly decode: Decode | undefined
  readonly maxQueue: number
  readonly prefillTokens: number
  /** Called once per step with what it brought, and whenever a request fails. */
  readonly emit: (events: readonly RowEvent[]) => void
}

interface Waiting {
  readonly id: number
  readonly request: GenerateRequest
  readonly tenant: string
  overtaken: number
}

export class Engine {
  readonly #options: EngineOptions
  readonly #queue: Queue<Waiting>
  readonly #running = new Set<Generation>()
  readonly #aborted = new Set<number>()
  #events: RowEvent[] = []
  #loop: Promise<void> | undefined
  #wake: () => void = () => {}
  readonly #counters = { steps: 0, prefillTokens: 0, decodeTokens: 0 }

  constructor(options: EngineOptions) {
    this.#options = options
    this.#queue = new Queue(options.maxQueue)
  }

  get stats(): Stats {
    const { adapters, slots } = this.#options
    const now = { rows: this.#running.size, queued: this.#queue.size, slots, free: adapters?.free ?? 0 }
    return { ...this.#counters, ...now }
  }

  /** `id` is the caller's and fresh. The outcome, a refusal included, comes through `emit`. */
  submit(id: number, request: GenerateRequest): void {
    const refusal = this.#refusal(request)
    if (refusal !== undefined) {
      this.#fail(id, refusal)
      this.#flush()
      return
    }
    this.#queue.add({ id, request, tenant: request.tenant, overtaken: 0 })
    this.#run()
  }

  /** The request leaves before the next run of the graph; nothing more is emitted for it. */
  abort(id: number): void {
    const waiting = this.#queue.inTurn().find((item) => item.id === id)
    if (waiting !== undefined) {
      this.#queue.drop(waiting)
      this.#forgetUnwanted(waiting.request.adapter)
      return
    }
    // While the graph runs, its inputs must stay where they are.
    for (const generation of this.#running) if (generation.id === id) this.#aborted.add(id)
  }

  /** Drops and aborts everything; resolves when the graph runs no more. */
  async stop(): Promise<void> {
    for (const waiting of this.#queue.inTurn()) this.#queue.drop(waiting)
    for (const { id } of this.#running) this.#aborted.add(id)
    this.#wake()
    await this.#loop
  }

  async load(digest: string): Promise<number> {
    return this.#bank().load(digest)
  }

  unload(digest: string): void {
    this.#bank().unload(digest)
  }

  residents(): Resident[] {
    return this.#options.adapters?.list() ?? []
  }

  /** To be wired to the adapters: a read has ended. */
  adapterLoaded(digest: string, error: unknown): void {
    const wanting = this.#queue.inTurn().filter(({ request }) => request.adapter === digest)
    if (error !== undefined) {
      for (const waiting of wanting) {
        this.#queue.drop(waiting)
        this.#fail(waiting.id, error)
      }
      this.#flush()
    }
    this.#forgetUnwanted(digest)
    this.#wake()
  }

  #refusal({ promptIds, maxTokens, adapter }: GenerateRequest): BackendError | undefined {
    const { model, adapters } = this.#options
    const need = promptIds.length + maxTokens
    if (promptIds.length === 0) return new BackendError('request_invalid', 'the prompt has no tokens', 'prompt')
    if (need > model.maxPositions) {
      return new BackendError(
        'context_length_exceeded',
        `${promptIds.length} prompt tokens and max_tokens ${maxTokens} are ${need}; the model has ${model.maxPositions} positions`,
        'max_tokens',
      )
    }
    if (!model.fits(need)) {
      return new BackendError('context_length_exceeded', `${need} tokens do not fit the KV cache of this backend`)
    }
    if (adapter !== null && adapters === undefined) return notRouted()
    if (this.#queue.full) return new BackendError('queue_full', 'too many requests are waiting; try again later')
    return undefined
  }

  #run(): void {
    this.#wake()
    this.#loop ??= this.#steps().finally(() => {
      this.#loop = undefined
    })
  }

  async #steps(): Promise<void> {
    // Messages that came during the last run (aborts, loads, new requests) are seen before the next one.
    while (await nextTurn(true)) {
      this.#leaveAborted()
      this.#admit()
      if (this.#running.size > 0) await this.#step()
      else if (this.#queue.size > 0) await this.#woken()
      else return
    }
  }

  /** Waits for a load to end or for a request to come. */
  #woken(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }

  #admit(): void {
    const { model, adapters, endIds, decode } = this.#options
    const passedBy: Waiting[] = []
    for (const waiting of this.#queue.inTurn()) {
      const { id, request } = waiting
      const need = request.promptIds.length + request.maxTokens
      // Memory is given in turn: who needs much is not passed by those who need little.
      if (!model.hasRoom(need)) return
      const slot = request.adapter === null ? 0 : adapters!.pin(request.adapter)
      if (slot === 'full') passedBy.push(waiting)
      if (slot === 'full' && waiting.overtaken >= MAX_OVERTAKEN) return
      if (typeof slot === 'string') continue
      for (const other of passedBy) other.overtaken += 1
      this.#queue.serve(waiting)
      this.#running.add(new Generation(id, request, { row: model.open(need), slot }, { endIds, decode }))
    }
  }

  async #step(): Promise<void> {
    this.#counters.steps += 1
    // A set keeps the order in which rows joined: the oldest prompt goes first.
    const prefilling = [...this.#running].filter((generation) => generation.left > 0)
    const chunks = planPrefill(prefilling, this.#options.prefillTokens)
    await this.#forward(chunks.map(({ row, tokens }) => [row, tokens]))
    const decoding = [...this.#running].filter((generation) => generation.left === 0)
    await this.#forward(decoding.map((generation) => [generation, 1]))
    this.#flush()
  }

  async #forward(batch: readonly (readonly [Generation, number])[]): Promise<void> {
    if (batch.length === 0) return
    const inputs = batch.map(([generation, count]): Input => {
      const { row, slot, left } = generation
      return { row, slot, tokens: generation.nextTokens(count), logits: left > count ? 'none' : 'last' }
    })
    let outputs: Output[]
    try {
      outputs = await this.#options.model.forward(inputs)
    } catch (error) {
      // Nothing was written, so other rows go on.
      for (const [generation] of batch) this.#leave(generation, error)
      return
    }
    for (const [index, [generation, count]] of batch.entries()) this.#advance(generation, count, outputs[index]!)
  }

  #advance(generation: Generation, count: number, { finite, logits }: Output): void {
    const prompt = generation.left > 0
    this.#counters[prompt ? 'prefillTokens' : 'decodeTokens'] += count
    generation.ran(count)
    try {
      if (!finite) throw new BackendError('non_finite_logits', 'row produced non-finite keys or values')
      const vector = logits.at(-1)
      if (vector === undefined) return
      const piece = generation.produce(vector)
      if (!this.#aborted.has(generation.id)) this.#events.push({ id: generation.id, piece })
      if (piece.finish !== undefined) this.#leave(generation)
    } catch (error) {
      this.#leave(generation, error)
    }
  }

  #leave(generation: Generation, error?: unknown): void {
    const { id, row, request } = generation
    this.#running.delete(generation)
    this.#options.model.close(row)
    if (request.adapter !== null) this.#options.adapters!.release(request.adapter)
    if (!this.#aborted.delete(id) && error !== undefined) this.#fail(id, error)
  }

  #leaveAborted(): void {
    if (this.#aborted.size === 0) return
    for (const generation of [...this.#running]) if (this.#aborted.has(generation.id)) this.#leave(generation)
  }

  #forgetUnwanted(digest: string | null): void {
    if (digest === null) return
    if (!this.#queue.inTurn().some(({ request }) => request.adapter === digest)) this.#options.adapters?.forget(digest)
  }

  #fail(id: number, error: unknown): void {
    this.#events.push({ id, failure: toFailure(error) })
  }

  #flush(): void {
    const events = this.#events
    if (events.length === 0) return
    this.#events = []
    this.#options.emit(events)
  }

  #bank(): Adapters {
    const { adapters } = this.#options
    if (adapters === undefined) throw notRouted()
    return adapters
  }
}

export function toFailure(error: unknown): Failure {
  if (error instanceof BackendError) return { code: error.code, message: error.message }
  return { code: 'internal', message: error instanceof Error ? (error.stack ?? error.message) : String(error) }
}

function notRouted(): BackendError {
  return new BackendError('model_not_found', 'this artifact has no adapter slots')
}
