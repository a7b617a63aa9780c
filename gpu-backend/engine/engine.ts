// Continuous batching: at every step rows may join, run and leave, each with its own adapter and its own sampler.
// Sees rows, tokens and slots; tensors are the model's affair.
import type { Mix } from '../contract.ts'
import { BackendError } from '../errors.ts'
import type { Decode } from '../text/writer.ts'
import { Admission, notRouted } from './admission.ts'
import type { Grammars } from './constraint.ts'
import { toFailure } from './failure.ts'
import { Generation } from './generation.ts'
import type { Model, Output } from './model.ts'
import { nextTurn } from './next-turn.ts'
import { Prefixes } from './prefixes.ts'
import type { GenerateRequest, RowEvent, Stats } from './request.ts'
import type { Pinned } from './residency.ts'
import { planPrefill } from './schedule.ts'
import type { Resident } from './slots.ts'

export interface Adapters {
  readonly free: number
  /** Bytes of adapters in host memory. */
  readonly hostBytes: number
  pin(digest: string, mix: Mix | undefined, tenant: string): Pinned
  prefetch(digest: string, mix: Mix | undefined, tenant: string): void
  release(digest: string): void
  forget(digest: string): void
  load(digest: string, mix?: Mix): Promise<number>
  unload(digest: string): void
  list(): Resident[]
}

export interface EngineOptions {
  /** Digest of the base. */
  readonly base: string
  readonly model: Model
  /** Undefined where the graph has no low-rank path: it serves the base alone. */
  readonly adapters: Adapters | undefined
  readonly slots: number
  readonly endIds: ReadonlySet<number>
  readonly decode: Decode | undefined
  /** Undefined where answers cannot be kept to a form: there is no tokenizer, or none that is known by its bytes. */
  readonly grammars: Grammars
  readonly maxQueue: number
  readonly prefillTokens: number
  /** Tokens that the budget of the KV cache holds. */
  readonly kvTokens: number
  /** Called once per step with what it brought, and whenever a request fails. */
  readonly emit: (events: readonly RowEvent[]) => void
}

export class Engine {
  readonly #options: EngineOptions
  readonly #admission: Admission
  readonly #prefixes: Prefixes | undefined
  readonly #running = new Set<Generation>()
  readonly #aborted = new Set<number>()
  #events: RowEvent[] = []
  #loop: Promise<void> | undefined
  #wake: () => void = () => {}
  readonly #counters = { steps: 0, prefillTokens: 0, decodeTokens: 0 }

  constructor(options: EngineOptions) {
    this.#options = options
    this.#admission = new Admission(options)
    this.#prefixes = options.model.prefixes && new Prefixes(options.model.prefixes, options.base)
  }

  get stats(): Stats {
    const { adapters, slots, kvTokens } = this.#options
    const running = new Set<string>()
    let held = 0
    for (const { request } of this.#running) {
      held += request.promptIds.length + request.maxTokens
      if (request.adapter !== null) running.add(request.adapter)
    }
    const waiting = this.#admission.adapters().filter((adapter) => !running.has(adapter))
    return {
      ...this.#counters,
      rows: this.#running.size,
      queued: this.#admission.size,
      slots,
      free: adapters?.free ?? 0,
      adapterBytes: adapters?.hostBytes,
      running: [...running],
      waiting,
      kvUsed: Math.min(1, held / kvTokens),
      prefixes: this.#prefixes?.stats,
    }
  }

  /** `id` is the caller's and fresh. The outcome, a refusal included, comes through `emit`. */
  submit(id: number, request: GenerateRequest): void {
    try {
      this.#admission.add(id, request)
    } catch (error) {
      this.#fail(id, error)
      this.#flush()
      return
    }
    this.#run()
  }

  /** The request leaves before the next run of the graph; nothing more is emitted for it. */
  abort(id: number): void {
    if (this.#admission.drop(id)) return
    // While the graph runs, its inputs must stay where they are.
    for (const generation of this.#running) if (generation.id === id) this.#aborted.add(id)
  }

  /** Drops and aborts everything; resolves when the graph runs no more. */
  async stop(): Promise<void> {
    this.#admission.dropAll()
    for (const { id } of this.#running) this.#aborted.add(id)
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
    for (const id of this.#admission.loadEnded(digest, error !== undefined)) this.#fail(id, error)
    this.#flush()
    this.#wake()
  }

  #run(): void {
    this.#wake()
    this.#loop ??= this.#steps()
  }

  async #steps(): Promise<void> {
    // Messages that came during the last run (aborts, loads, new requests) are seen before the next one.
    while (await nextTurn(true)) {
      this.#leaveAborted()
      this.#admit()
      if (this.#running.size > 0) await this.#step()
      else if (this.#admission.size > 0) await this.#woken()
      else break
    }
    // With no turn in between, so that nobody submits to a loop that has decided to end.
    this.#loop = undefined
  }

  /** Waits for a load to end or for a request to come. */
  #woken(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = resolve
    })
  }

  #admit(): void {
    for (const admitted of this.#admission.admit()) this.#running.add(new Generation(admitted, this.#options))
  }

  async #step(): Promise<void> {
    this.#counters.steps += 1
    // A set keeps the order in which rows joined: the oldest prompt goes first.
    const prefilling = [...this.#running].filter((generation) => generation.left > 0)
    const chunks = planPrefill(this.#prefixes?.toRun(prefilling) ?? prefilling, this.#options.prefillTokens)
    for (const { row } of chunks) row.lastPrefill = this.#counters.steps
    await this.#forward(chunks.map(({ row, tokens }) => [row, tokens]))
    const decoding = [...this.#running].filter((generation) => generation.left === 0)
    await this.#forward(decoding.map((generation) => [generation, 1]))
    this.#flush()
  }

  async #forward(batch: readonly (readonly [Generation, number])[]): Promise<void> {
    if (batch.length === 0) return
    const inputs = batch.map(([generation, count]) => generation.next(count))
    let outputs: Output[]
    try {
      outputs = await this.#options.model.forward(inputs)
    } catch (error) {
      // Nothing was written, so other rows go on.
      for (const [generation] of batch) this.#leave(generation, error)
      return
    }
    for (const [index, [generation, count]] of batch.entries()) await this.#advance(generation, count, outputs[index]!)
  }

  async #advance(generation: Generation, count: number, { finite, logits }: Output): Promise<void> {
    this.#counters[generation.left > 0 ? 'prefillTokens' : 'decodeTokens'] += count
    try {
      if (!finite) throw new BackendError('non_finite_logits', 'row produced non-finite keys or values')
      this.#prefixes?.ran(generation)
      if (generation.left <= count) await generation.prepare(this.#options.grammars)
      const piece = generation.ran(count, logits)
      if (piece === undefined) return
      if (!this.#aborted.has(generation.id)) this.#events.push({ id: generation.id, piece: generation.tell(piece) })
      if (piece.finish !== undefined) this.#leave(generation)
    } catch (error) {
      this.#leave(generation, error)
    }
  }

  #leave(generation: Generation, error?: unknown): void {
    const { id, row, request } = generation
    this.#running.delete(generation)
    generation.close()
    this.#options.model.close(row)
    if (request.adapter !== null) this.#options.adapters!.release(request.adapter)
    if (!this.#aborted.delete(id) && error !== undefined) this.#fail(id, error)
  }

  #leaveAborted(): void {
    if (this.#aborted.size === 0) return
    for (const generation of [...this.#running]) if (this.#aborted.has(generation.id)) this.#leave(generation)
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
